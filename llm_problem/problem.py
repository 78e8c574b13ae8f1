"""The loss of a language model as a function of x in R^d, where x = 0 is the pretrained model."""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_problem.batches import Batches
from llm_problem.calibration import calibrated
from llm_problem.drift import Drift
from llm_problem.evaluation import SerialEvaluator, choose_evaluator
from llm_problem.export.exporting import Exporting
from llm_problem.faces import Faces
from llm_problem.forgetting import Forgetting, default_other_task
from llm_problem.measuring import Measuring
from llm_problem.models.loading import LoadedModel, load_model
from llm_problem.objectives import Objectives
from llm_problem.points import candidates, float_array
from llm_problem.problem_card import problem_card
from llm_problem.racing import Marks, race
from llm_problem.rebuilding import rebuild
from llm_problem.spec import ProblemSpec
from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.stored import load_basis
from llm_problem.tasks.base import Task
from llm_problem.tasks.batch import TokenBatch
from llm_problem.written import Written


class Problem(Exporting, Faces, Measuring):
    """A black-box problem: x (d,) → loss, to be minimised.

    Args:
        model: "smollm2-135m", "tiny-gpt2", "tiny-bert", a directory with safetensors, a hub id, or a pair
            (PreTrainedModel, tokenizer).
        task: what the model is asked, such as `lp.tasks.Classification.from_csv(…)`.
        subspace: what x means, such as `lp.subspaces.LoRAXS(rank=4, layers=2)`.
        objective: the one thing minimised: a name that the task offers ("loss", "error"), "drift" (KL divergence of the
            predictions on neutral text from the pretrained model's, nats per token), "forgetting" (what is lost at
            `other_task`: its loss less the pretrained model's) or "norm" (‖x‖²/d).
        objectives: several of them, instead of `objective`.
        regularisation: weights ≥ 0 of quantities that are added to the (first) objective, such as {"drift": 0.1}.
        constraints: limits ≥ 0 of quantities, such as {"drift": 0.5}; see `evaluate_all`.
        seed: draws the search examples and a random basis; the same seed gives the same problem.
        minibatch: examples of a numbered minibatch for `evaluate(X, sample=k)`.
        device: a torch device.
        dtype: of the matrix products that are run for each candidate, "float32" or "bfloat16" (faster on
            processors that have it, losses some 1e-3 nats off; the rest stays in single precision).
        evaluator: "auto", "serial" (the reference) or "replay" (fast), see `llm_problem.evaluation`.
        memory_limit: bytes that packed copies of weights and kept activations may take, each; what would pass it is
            computed again each time. None: a quarter of the memory that is free.
        neutral_text: the text file that drift is read on; None: the embedded prose.
        other_task: the task that forgetting is read on; None: language modelling on the embedded prose.
        basis: a file of `save_basis`, from which the subspace takes its frozen arrays. A singular value decomposition
            made here may differ from one made on another machine; a file does not. None makes them here.

    Evaluating has no hidden state: the value depends on x alone (and on the numbered minibatch, where one is asked
    for). Copies made by frameworks share the model; a pickle carries the description only, and a process that
    unpickles it again and again builds the problem once.

    Raises:
        ValueError, TypeError: anything that does not fit, saying what was expected and what was given.
    """

    def __init__(
        self,
        model: Any,
        task: Task,
        subspace: Subspace,
        *,
        objective: str = "loss",
        objectives: Sequence[str] | None = None,
        regularisation: Mapping[str, float] | None = None,
        constraints: Mapping[str, float] | None = None,
        seed: int = 0,
        minibatch: int | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        evaluator: str = "auto",
        memory_limit: int | None = None,
        neutral_text: Any = None,
        other_task: Task | None = None,
        basis: str | os.PathLike[str] | None = None,
    ) -> None:
        wanted = tuple(objectives) if objectives is not None else (objective,)
        more: Any = {"regularisation": regularisation, "constraints": constraints}
        more |= {"neutral_text": neutral_text, "other_task": other_task}
        spec = ProblemSpec("", task, subspace, wanted, seed, minibatch, dtype, evaluator, **more)
        loaded = load_model(model, device=device)
        self._start(dataclasses.replace(spec, model=loaded.name), loaded, memory_limit, basis)

    @classmethod
    def from_spec(
        cls,
        spec: ProblemSpec | str | dict[str, Any],
        *,
        device: str = "cpu",
        memory_limit: int | None = None,
        basis: str | os.PathLike[str] | None = None,
    ) -> Problem:
        """Rebuild a problem from its description, of which place, memory and a basis' file are no part."""
        problem, spec = cls.__new__(cls), ProblemSpec.of(spec)
        problem._start(spec, load_model(spec.model, device=device), memory_limit, basis)
        return problem

    def _start(
        self,
        spec: ProblemSpec,
        loaded: LoadedModel,
        memory_limit: int | None,
        basis: str | os.PathLike[str] | None,
    ) -> None:
        self._loaded = loaded
        basis = None if basis is None else os.path.abspath(os.path.expanduser(basis))
        self._where = {"device": str(loaded.model.device), "memory_limit": memory_limit, "basis": basis}
        self._subspace: BoundSubspace = spec.subspace.bind(loaded, spec.seed)
        if self._subspace.description is not None:  # it knows what is in the files it names only now
            spec = dataclasses.replace(spec, subspace=self._subspace.description)
        self._spec = spec
        if basis is not None:  # before an evaluator makes anything of it
            load_basis(self._subspace, basis, spec.basis_identity(loaded.identity))
        prompt = self._subspace.prompt
        other = spec.other_task or default_other_task()  # a face may ask for it later
        self._batches = Batches(spec.task, loaded, spec.seed, spec.minibatch, prompt, spec.neutral_text, other)
        spec = dataclasses.replace(spec, tokens=self._batches.check_tokens(spec.tokens))
        self._raced: tuple[np.ndarray, Marks] | None = None  # the point raced against last, and its losses
        self._fingerprint: str | None = None
        self._closed = False
        self._spec, self._subspace = calibrated(spec, loaded, self._subspace, self.batch("search"), memory_limit)
        self._evaluator, self._why = choose_evaluator(
            loaded,
            self._subspace,
            self.batch("search"),
            spec.evaluator,
            memory=memory_limit,
            precision=None if spec.dtype == "float32" else spec.dtype,
        )
        self._drift = Drift(self._evaluator, self._batches.neutral)
        self._forgetting = Forgetting(self._evaluator, other, self._batches.other)
        self._written = Written(self._evaluator, spec.task, memory_limit)
        self._objectives = self._objectives_of(spec)

    # What it is.

    @property
    def spec(self) -> ProblemSpec:
        """The description that rebuilds this problem."""
        return self._spec

    @property
    def name(self) -> str:
        """The registered id (with its instance), or a readable summary of the description."""
        spec = self._spec
        if spec.id is not None:
            return spec.id if spec.instance == 0 else f"{spec.id}@{spec.instance}"
        return f"{spec.model}-{spec.task.kind}-{spec.subspace.kind}-d{self.dimension}"

    @property
    def dimension(self) -> int:
        """d, the number of coordinates of x."""
        return self._open()._subspace.dimension

    @property
    def x0(self) -> np.ndarray:
        """The pretrained model, zeros (d,); a fresh array."""
        return np.zeros(self.dimension)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), each (d,). `evaluate` works outside too."""
        return np.full(self.dimension, -self._spec.bound), np.full(self.dimension, self._spec.bound)

    @property
    def sigma(self) -> float:
        """Standard deviation of a typical step."""
        return 1.0

    @property
    def penalty(self) -> float:
        """What optimizers are told where the loss is not finite."""
        return self._spec.penalty

    @property
    def objectives(self) -> tuple[str, ...]:
        return self._spec.objectives

    @property
    def constraints(self) -> tuple[tuple[str, float], ...]:
        """(quantity, limit) of each column of G in `evaluate_all`."""
        return self._spec.constraints

    @property
    def unit(self) -> str:
        """The unit of the first objective, such as "nats per example"; empty where it has none, or is a sum."""
        forgetting = self._spec.other_task.unit if self._spec.other_task else ""
        units = {"loss": self._spec.task.unit, "drift": "nats per token", "forgetting": forgetting}
        return "" if self._spec.regularisation else units.get(self.objectives[0], "")

    @property
    def model(self) -> Any:
        """The frozen transformers model, with its pretrained weights."""
        return self._open()._loaded.model

    @property
    def tokenizer(self) -> Any:
        return self._open()._loaded.tokenizer

    @property
    def subspace(self) -> BoundSubspace:
        """The map from x to the model's weights."""
        return self._open()._subspace

    @property
    def evaluator(self) -> SerialEvaluator:
        """What computes the log-probabilities; `card()` says in words which one it is and why."""
        return self._open()._evaluator

    @property
    def fingerprint(self) -> str:
        """sha256 (64 hex digits) over the weights, the data, the subspace and every setting that decides f."""
        if self._fingerprint is None:
            self._fingerprint = self._spec.fingerprint(self._open()._loaded.identity)
        return self._fingerprint

    # What it does.

    def __call__(self, x: Any) -> float:
        """The loss at x (d,), or at an (d,)-like sequence of numbers; not finite where the model's is not.

        Raises:
            ValueError: another shape.
        """
        return float(self.evaluate(self._row(x))[0])

    def evaluate(self, X: Any, sample: int | None = None) -> np.ndarray:
        """The losses of n candidates on the search split, regularisation included; constraints are not looked at.

        Args:
            X: (n, d). A row that is not finite has the loss NaN.
            sample: None for all search examples, k ≥ 0 for the k-th fixed minibatch, the same for all of X.

        Returns:
            (n,) float64, in nats for "loss"; NaN or infinite where the model's is.

        Raises:
            ValueError: another shape, something that is no number, or minibatches that this problem does not have.
            RuntimeError: the problem has several objectives (`evaluate_all` takes those), or is closed.
        """
        if len(self.objectives) != 1:
            raise RuntimeError(f"this problem has the objectives {', '.join(self.objectives)}: use evaluate_all")
        return self._open()._objectives.values(self._points(X), self._sample(sample))[:, 0]

    def evaluate_all(
        self, X: Any, sample: int | None = None, split: str = "search"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every objective and constraint of n candidates; arguments as for `evaluate`, and the split that is read.

        Returns:
            F (n, m) float64, G (n, c) float64, each constraint's quantity less its limit (feasible where all are ≤ 0),
            and status (n,) of "ok" and "non-finite".
        """
        F, G = self._open()._objectives.all(self._points(X), self._sample(sample, split))
        return F, G, np.where(np.isfinite(F).all(axis=1) & np.isfinite(G).all(axis=1), "ok", "non-finite")

    def race(self, X: Any, against: Any, *, rounds: int = 4, z: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
        """The losses of n candidates, given up on those that fall behind on a part of the examples.

        Args:
            X: (n, d).
            against: the point (d,) to beat.
            rounds: parts of the search examples, at least 1; a candidate is judged after each.
            z: standard errors of the paired difference by which it must be behind; larger is more patient.

        Returns:
            losses (n,) float64, to 1e-6 those of `evaluate`, NaN for a candidate that was given up; and status (n,) of
            "ok", "non-finite" and "censored".

        Raises:
            ValueError: a shape or number that does not fit.
            RuntimeError: the objective is not "loss" alone, or there are constraints: a part of the examples says
                nothing of those.
        """
        if self.objectives != ("loss",) or self._spec.regularisation or self.constraints:
            names = (*self.objectives, *dict(self._spec.regularisation), *(f"limited {n}" for n, _ in self.constraints))
            raise RuntimeError(f"only the objective 'loss' can be raced, and that alone, not {', '.join(names)}")
        X, point, parts = self._points(X), self._one(against), self._open()._batches.parts(rounds)
        if self._raced is None or not np.array_equal(self._raced[0], point):
            self._raced = point.copy(), {}
        return race(self._evaluator, self._spec.task, X, point, parts, z, self._raced[1])

    def value_and_grad(self, x: Any) -> tuple[float, np.ndarray]:
        """The loss at x (d,) and its gradient (d,), by backpropagation: the reference for gradient-free search.

        Regularisation is part of both, constraints of neither.

        Raises:
            ValueError: another shape.
            RuntimeError: several objectives, or one that is not differentiable.
        """
        return self._open()._objectives.value_and_grad(self._row(x)[0], self.batch("search"))

    def minimising(
        self,
        *objectives: str,
        regularisation: Mapping[str, float] | None = None,
        constraints: Mapping[str, float] | None = None,
    ) -> Problem:
        """The same x with these things to minimise instead, arguments as for the class: on the same model, with what
        was computed of it already."""
        return self._changed(objectives=objectives, regularisation=regularisation, constraints=constraints)

    def card(self) -> dict[str, Any]:
        """What this problem is, for people and for files: plain JSON values."""
        return problem_card(self._open(), self._why)

    def close(self) -> None:
        """Let go of the model; evaluating afterwards raises RuntimeError."""
        self._closed = True
        held = "loaded subspace evaluator batches raced drift forgetting written objectives"
        for name in held.split():
            self.__dict__.pop(f"_{name}", None)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __repr__(self) -> str:
        return f"<Problem {self.name}>" if not self._closed else "<Problem closed>"

    def __copy__(self) -> Problem:
        return self  # nothing in it changes, and a copy would carry the model

    def __deepcopy__(self, memo: dict) -> Problem:
        return self

    def __reduce__(self) -> tuple:
        if self._spec.model.startswith("object:"):
            raise pickle.PicklingError(
                "a problem made from a model object cannot be pickled: save the model with save_pretrained and "
                "give the directory instead"
            )
        functions = tuple(function for task in self._spec.tasks for function in task.functions)
        return rebuild, (self._spec.to_json(), self._where, functions)

    # Inside.

    def _open(self) -> Problem:
        if self._closed:
            raise RuntimeError("this problem is closed")
        return self

    def _one(self, x: Any) -> np.ndarray:
        """x (d,) as a finite (1, d)."""
        X = self._row(x)
        if not np.isfinite(X).all():
            raise ValueError("x must be finite")
        return X

    def _row(self, x: Any) -> np.ndarray:
        """x (d,) as (1, d)."""
        array = float_array("x", x)
        if array.shape != (self.dimension,):
            raise ValueError(f"x must have shape ({self.dimension},), got {array.shape}")
        return array[None, :]

    def _points(self, X: Any) -> np.ndarray:
        return candidates(X, self.dimension)

    def batch(self, split: str) -> TokenBatch:
        """The tokenised examples of a split, as evaluators read them."""
        return self._open()._batches.split(split)

    def _sample(self, number: int | None, split: str = "search") -> TokenBatch:
        if number is not None and split != "search":
            raise ValueError(f"minibatches are of the search split: leave sample out on the {split} split")
        return self.batch(split) if number is None else self._open()._batches.minibatch(number)

    def _objectives_of(self, spec: ProblemSpec) -> Objectives:
        for name, read in (("drift", self._batches.neutral), ("forgetting", self._batches.other)):
            if name in spec.quantities:
                read()  # a text or task that does not do is refused now
        return Objectives(spec, self._evaluator, self._drift, self._forgetting, self._written)

    def _with_objectives(self, objectives: Sequence[str] | None) -> Problem:
        if objectives is None or tuple(objectives) == self.objectives:
            return self
        return self._changed(objectives=tuple(objectives))

    def _changed(self, **changes: Any) -> Problem:
        problem = Problem.__new__(Problem)
        problem.__dict__.update(self._open().__dict__)
        problem._spec = dataclasses.replace(self._spec, **changes, id=None)
        problem._objectives, problem._fingerprint = self._objectives_of(problem._spec), None
        return problem
