"""Problems that workers build in no time, and that do to their process what tests want done."""

import os
import signal
import time

import numpy as np

from llm_problem.workers import WorkerPool


class Square:
    """‖x − 1‖², and who evaluated it."""

    sigma = 1.0

    def __init__(self, dimension=3, seconds=0.0):
        self.dimension, self.seconds = dimension, seconds
        self.x0, self.bounds = np.zeros(dimension), (np.full(dimension, -5.0), np.full(dimension, 5.0))

    def evaluate(self, X):
        for x in X:
            time.sleep(self.seconds)
            self.suffer(x)
        return np.square(X - 1.0).sum(axis=1)

    def suffer(self, x):
        """What a subclass does at a point."""

    def who(self, X):
        time.sleep(self.seconds * len(X))
        return [os.getpid()] * len(X)

    def variable(self, X):
        return [os.environ.get("LLM_PROBLEM_TRIED")] * len(X)


class Limited(Square):
    """With a constraint that half of the points break."""

    constraints = (("first", 0.0),)

    def evaluate_all(self, X):
        return self.evaluate(X)[:, None], X[:, :1].copy(), np.full(len(X), "ok")


class Marked(Square):
    """Where the first number of x is above 2 the process is killed, hangs, or takes memory; below −2 it raises."""

    def __init__(self, deed, **options):
        super().__init__(**options)
        self.deed = deed

    def suffer(self, x):
        if x[0] < -2:
            raise ArithmeticError(f"at {x[0]:g}")
        if x[0] <= 2:
            return
        if self.deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        hold = []
        while True:
            time.sleep(0.01)
            if self.deed == "memory":
                hold.append(np.ones(2**22))  # 32 MB


class Faced(Marked):
    """The same with what the faces ask of a problem."""

    name, fingerprint, penalty = "faced", "0" * 16, 1e6
    objectives, constraints = ("loss",), (("first", 5.0),)

    def evaluate_all(self, X):
        return self.evaluate(X)[:, None], X[:, :1] - 5.0, np.full(len(X), "ok")

    def race(self, X, against):
        return self.evaluate(X), np.full(len(X), "ok")

    def value_and_grad(self, x):
        return self.evaluate(x[None])[0], 2 * (x - 1.0)


class TooLarge(Square):
    """Dies, once for all, where more than one point is evaluated together."""

    def evaluate(self, X):
        if len(X) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(X)


class NeverBuilt(Square):
    """Cannot be unpickled."""

    def __reduce__(self):
        return _refuse, ()


class Sometimes(Square):
    """Cannot be unpickled while there is a file."""

    def __init__(self, file, **options):
        super().__init__(**options)
        self.file = file

    def __reduce__(self):
        return _unless, (self.file, self.seconds)


def _unless(file, seconds):
    if file.exists():
        raise MemoryError("not now")
    return Sometimes(file, seconds=seconds)


def _refuse():
    raise FileNotFoundError("no such model here")


class Nested(Square):
    """Wants workers of its own."""

    def evaluate(self, X):
        with WorkerPool(Square(), 1) as pool:
            return np.array(pool.outcomes("evaluate", X))
