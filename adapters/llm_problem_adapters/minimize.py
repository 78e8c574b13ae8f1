"""`minimize`: run an optimizer on a problem for an exact number of evaluations, and keep the records.

ask → evaluate → record → callback → tell, until N − 1 evaluations are spent; the last one is kept for the
point that the optimizer recommends, where that was never evaluated (the mean of a distribution, say).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_problem.records import RecordError
from llm_problem_adapters.base import BaseOptimizer
from llm_problem_adapters.blas_threads import one_blas_thread
from llm_problem_adapters.elsewhere import evaluated_elsewhere
from llm_problem_adapters.evaluating import Evaluating, OutOfTime
from llm_problem_adapters.generalisation import Generalisation
from llm_problem_adapters.identity import identity_of
from llm_problem_adapters.limits import Limits
from llm_problem_adapters.recording import Recording, Unrecorded
from llm_problem_adapters.registry import configure
from llm_problem_adapters.result import Progress, Result
from llm_problem_adapters.run import Run

if TYPE_CHECKING:
    from llm_problem.optimizer import Optimizer


def minimize(
    problem: Any,
    optimizer: str | Optimizer | Callable[..., Optimizer],
    budget: int,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    start_at_x0: bool = True,
    horizon: int | None = None,
    callback: Callable[[Progress], None] | None = None,
    keep_x: bool = False,
    race: bool = False,
    generalisation: Generalisation | Mapping[str, Any] | None = None,
    record: str | os.PathLike[str] | None = None,
    resume: bool = False,
    record_points: bool = True,
    errors: str = "raise",
    limits: Limits | Mapping[str, Any] | None = None,
    workers: int | Any | None = None,
    **options: Any,
) -> Result:
    """Minimise `problem` with `optimizer`, spending exactly `budget` evaluations.

    Fewer are spent only where the optimizer stops by itself, patience ends or the run is interrupted. After N − 1
    evaluations the recommended point is asked for. If it was never evaluated, evaluation N is its own; if it
    was (the same to the bit), evaluation N is one more of the search, and counts unless the optimizer then
    recommends a point without a loss. Where the recommended point's loss is not finite, the best point seen
    takes its place. A generation that the budget cuts short is recorded, and told as far as it goes, but not
    learnt from.

    Constraints decide by Deb's rules: feasible before infeasible, then the lower loss, or the smaller violation; a
    recommended point that is infeasible gives way to the best feasible one that was seen. Optimizers that have a way of
    their own with constraints are told G, the others losses in that order (see `llm_problem_adapters.feasibility`).

    An optimizer that is given gradients (`takes_gradients`: no black-box optimizer, but a reference) gets them from
    `problem.value_and_grad(x)` → loss, gradient (d,). One is charged as `gradient_cost` evaluations, 3 by default: the
    row of its loss, and two of status "gradient" without one.

    Args:
        problem: has `dimension`, `x0`, `bounds` ((lower, upper), or None), `sigma`, `evaluate(X)` → (n,)
            losses, and perhaps `penalty`, the finite loss that stands for one that is not where the optimizer
            is of another library (a `BaseOptimizer` takes losses as they are), and `constraints`, as many as
            `evaluate_all(X)` → F (n, 1), G (n, c), status has columns of G, feasible where all are ≤ 0.
        optimizer: a name of `list_optimizers`; a configured optimizer that was not set up (it is copied
            first); one that is set up, which is used as it is, so that seed, batch_size, start_at_x0 and
            horizon are its own; or a callable that takes what `make_optimizer` takes after the name.
        budget: N, at least 1.
        seed: non-negative; the same seed gives the same run.
        batch_size: points proposed before any is told, for algorithms without generations of their own.
        start_at_x0: whether x0 is evaluation one.
        horizon: evaluations the optimizer plans for; the budget, if None.
        callback: called with a `Progress` after each batch, before the optimizer is told.
        keep_x: keep every point in `Result.X`.
        race: give up candidates that fall behind the best point so far on a part of the examples
            (`problem.race`, with its defaults). One that was given up is an evaluation, has the status "censored"
            and no loss, and counts as the worst there is when the optimizer is told.
        generalisation: a `Generalisation` or its options as a mapping, such as {"choose": "dev"}: the answer chosen on
            the dev split, early stopping, averages, search examples drawn anew. Reading the dev split is no part of the
            budget; `Result.generalisation` says how often it was read and what came of it. The point that is chosen or
            averaged takes the place of the recommended one, its loss included.
        record: a file that every evaluation is written into before the optimizer is told of it (see
            `llm_problem.records`).
        resume: go on with the run in `record`, called as when it was begun: the optimizer asks again, is told what is
            recorded, and then goes on as if nothing had happened; the callback is shown it all. Where there is no file,
            the run begins. A run that stopped before its horizon may get a larger budget.
        record_points: whether the record keeps each point, or the best on the way and of the others their hashes, from
            which a run is resumed all the same.
        errors: "raise" ends the run with what `evaluate` raises, the batch in hand unrecorded, so that a resumed run
            evaluates it again; "record" makes it an evaluation of the status "failed" with no loss, and goes on. So
            does a return value that is no array of real numbers.
        limits: a `Limits` or its options as a mapping, such as {"seconds": 3600}.
        workers: processes that evaluate what is asked for together, each with one thread, so that the run is that of a
            single process with one thread, to the bit, however many there are; or a pool of this problem's
            (`llm_problem.workers.WorkerPool`, `llm_problem_adapters.ray_pool.RayPool`), which is left open and brings
            limits of its own. A point whose worker dies is given to another, and has failed after two. An optimizer
            that asks for a point at a time gains nothing: give a `batch_size`.
        **options: of the optimizer, given by name or as a callable.

    Returns:
        The result. Once a batch was evaluated, a KeyboardInterrupt or the time limit ends the run with what there is:
        its stop_reason is "interrupted" or "time limit" and its x the best point seen.

    Raises:
        TypeError: `optimizer` is none of these; an option it does not have; gradients wanted of a problem without.
        ValueError: a budget below one, an unknown name, an argument out of range, losses of the wrong shape, a problem
            of several objectives, racing or gradients where there are constraints; resuming an optimizer that does not
            replay, or without a record.
        FileExistsError: `record` is there, and `resume` is not asked for.
        RecordError: the record is damaged, in use, full, or of another run, or the optimizer departs from it.
        Whatever `evaluate` or the callback raises, with the `Result` so far, if any, as its attribute
        `partial_result`.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or budget < 1:
        raise ValueError(f"budget must be an integer of at least 1, got {budget!r}")
    objectives: tuple[str, ...] = tuple(getattr(problem, "objectives", ()))
    if len(objectives) > 1:
        raise ValueError(
            f"minimize takes one objective, and this problem has {', '.join(objectives)}: for a front give "
            "problem.to_pymoo() to pymoo's NSGA2 or problem.to_nevergrad() to Nevergrad's DE, or weigh them in one "
            f"objective with Problem(…, objective={objectives[0]!r}, regularisation={{{objectives[1]!r}: weight}})"
        )
    if race and len(getattr(problem, "constraints", ())):
        raise ValueError("nothing can race where there are constraints: a part of the examples says nothing of them")
    settings = {
        "dimension": problem.dimension,
        "x0": problem.x0,
        "bounds": problem.bounds,
        "sigma": problem.sigma,
        "horizon": int(budget) if horizon is None else horizon,
        "batch_size": batch_size,
        "seed": seed,
        "start_at_x0": start_at_x0,
    }
    if isinstance(generalisation, Mapping):
        generalisation = Generalisation(**generalisation)
    if race and generalisation is not None and generalisation.resample is not None:
        raise ValueError("candidates race over parts of one search set, and resample changes it: choose one of the two")
    if resume and record is None:
        raise ValueError("there is nothing to resume from: give the run's record")
    limits = Limits.of(limits)
    apart: Any = None
    books: Unrecorded | None = None
    try:
        books = Unrecorded() if record is None else Recording(record, resume, record_points)
        if horizon is None and books.horizon is not None:
            settings["horizon"] = books.horizon
        configured = _resolve(optimizer, settings, options)
        name = optimizer if isinstance(optimizer, str) else getattr(configured, "name", "") or type(configured).__name__
        if hasattr(configured, "gradient_cost"):
            _require_gradient(problem, name)
            if generalisation is not None and generalisation.resample is not None:
                raise ValueError(f"{name} follows the gradient on the whole search split, which cannot be drawn anew")
        apart = evaluated_elsewhere(problem, limits, workers)  # after what can be refused at once
        evaluating = Evaluating(problem if apart is None else apart, errors, limits.of_one, limits.seconds)
        rest = {"budget": int(budget), "race": bool(race), "generalisation": generalisation, "errors": errors}
        books.begin({} if record is None else identity_of(problem, optimizer, name, options, settings, **rest))
        run = Run(problem, configured, int(budget), seed, callback, keep_x, race, generalisation, evaluating, books)
        run.name = name
        return _spend(run)
    finally:
        if books is not None:
            books.close()
        if apart is not None:
            apart.close()


def _spend(run: Run) -> Result:
    """Run to the end, or to what ends it."""
    try:
        with one_blas_thread():
            run.search()
            answer = run.recommend()
            run.books.ended(run.stop_reason, finished=True)
            return run.result(*answer)
    except (KeyboardInterrupt, OutOfTime) as stop:
        reason = "time limit" if isinstance(stop, OutOfTime) else "interrupted"
        run.books.ended(reason, finished=False)
        if not run.batches:
            raise
        run.stop_reason = reason
        return run.result(*run.best)
    except Exception as error:
        if not isinstance(error, RecordError):
            run.books.ended(f"{type(error).__name__}: {error}", finished=False)
        if run.batches:
            run.stop_reason = f"{type(error).__name__}: {error}"
            error.partial_result = run.result(*run.best)  # type: ignore[attr-defined]
            if hasattr(error, "add_note"):  # Python 3.11 on
                error.add_note(f"{run.evaluations} evaluations are in this error's partial_result")
        raise


def _resolve(optimizer: Any, settings: dict[str, Any], options: dict[str, Any]) -> Optimizer:
    """The optimizer that `minimize` was given in one of four ways, set up."""
    if isinstance(optimizer, str):
        return configure(optimizer, **options).setup(**settings)
    if isinstance(optimizer, type) and issubclass(optimizer, BaseOptimizer):
        return optimizer(**options).setup(**settings)
    if all(callable(getattr(optimizer, method, None)) for method in ("ask", "tell", "recommend")):
        if options:
            raise TypeError(f"an optimizer that is configured already takes no options, got {sorted(options)}")
        if isinstance(optimizer, BaseOptimizer) and not optimizer.is_set_up:
            return copy.deepcopy(optimizer).setup(**settings)
        return optimizer
    if callable(optimizer):
        return optimizer(**settings, **options)
    raise TypeError(f"optimizer must be a name, an optimizer or a callable that makes one, got {optimizer!r}")


def _require_gradient(problem: Any, name: str) -> None:
    if not callable(getattr(problem, "value_and_grad", None)):
        raise TypeError(f"{name} takes gradients, and this problem has no value_and_grad")
    if len(getattr(problem, "constraints", ())):
        raise ValueError(
            f"{name} follows the gradient of the loss, which knows nothing of constraints: use an optimizer of "
            "list_optimizers(gradients=False), or weigh what is constrained in Problem(…, regularisation=…)"
        )
