"""Checks of a subspace: of its map, its basis, its values under every evaluator, and its ways home."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_problem.batches import Batches
from llm_problem.evaluation.choice import TOLERANCE
from llm_problem.evaluation.encoder_decoder import EncoderDecoderEvaluator
from llm_problem.evaluation.replay import NotReplayableError, ReplayEvaluator
from llm_problem.evaluation.serial import SerialEvaluator
from llm_problem.models.loading import LoadedModel, load_model
from llm_problem.spec import ProblemSpec
from llm_problem.subspaces import SUBSPACES, BoundSubspace, Subspace
from llm_problem.subspaces.base import hash_tensors
from llm_problem.subspaces.stored import load_basis, save_basis
from llm_problem.tasks import Classification, LanguageModelling, Task
from llm_problem.testing.another_machine import turned_decompositions
from llm_problem.testing.changes import changes_of, combined, distance, size_of
from llm_problem.testing.elsewhere import check_elsewhere
from llm_problem.testing.exported import check_exports
from llm_problem.testing.promises import promised, require

SOME = 32  # coordinates, and tensors of a basis, that are tried one by one
_EXACT = {"float64": 1e-9, "float32": 1e-4}  # relative to the size of a change; 0.05 in other precisions


def check_subspace(
    subspace: Subspace, model: Any = "tiny-gpt2", *, task: Task | None = None, seed: int = 0, processes: bool = True
) -> None:
    """Check a subspace on one model.

    Args:
        subspace: what is checked.
        model: whatever `lp.Problem` takes; a small one keeps this to seconds.
        task: what losses are taken of; None for a few words.
        seed: of the subspace.
        processes: whether to try its JSON description in another process, which starts Python once more. Its class
            must then stand in a module that can be imported.

    Raises:
        BrokenPromiseError: a promise that it does not keep.
        ValueError: the model does not load, or is none for this subspace, in the subspace's own words.
    """
    loaded = load_model(model)
    task = _some_words(loaded) if task is None else task
    _check_description(subspace, task)
    untouched = hash_tensors(loaded.model.state_dict().values())
    state = _random_state()
    with promised("bind(model, seed) gives the map, or a ValueError that says what does not fit", ValueError):
        bound, again = subspace.bind(loaded, seed), subspace.bind(loaded, seed)
    require(isinstance(bound, BoundSubspace), "bind(model, seed) gives a BoundSubspace", type(bound).__name__)
    require(_random_state() == state, "binding draws from a generator of its own", "it moved a global one")
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((3, _dimension(bound)))
    _check_claims(bound, loaded, X)
    if bound.description is not None:
        _check_description(bound.description, task)
        same = bound.description.bind(loaded, seed).basis_hash() == bound.basis_hash()
        require(same, "the description of a bound subspace gives its map")
    _check_map(bound, loaded, X)
    _check_repeats(bound, again, loaded, X)
    _check_basis(subspace, bound, loaded, seed, X)
    if processes:
        check_elsewhere(subspace, loaded, task, seed, X[0], _exact(loaded))
    _check_values(bound, loaded, task, seed, X)
    check_exports(subspace, loaded, task, seed, X[1])
    require(hash_tensors(loaded.model.state_dict().values()) == untouched, "the model stays as it was")


def _check_description(subspace: Subspace, task: Task) -> None:
    require(isinstance(subspace, Subspace), "a subspace derives from Subspace", type(subspace).__name__)
    name = type(subspace).__name__
    require(
        SUBSPACES.get(subspace.kind) is type(subspace),
        "a subspace is registered under its kind",
        f"llm_problem.subspaces.SUBSPACES[{name}.kind] = {name} is missing",
    )
    spec = ProblemSpec("tiny-gpt2", task, subspace)
    with promised("the description survives JSON"):
        back = ProblemSpec.from_json(spec.to_json())
    what = f"{back.subspace} came back of {subspace} (JSON's lists are read as tuples)"
    require(back.subspace == subspace, "the description survives JSON", what)
    with promised("the description can be hashed"):
        hash(subspace)


def _dimension(bound: BoundSubspace) -> int:
    dimension = getattr(bound, "dimension", None)
    require(type(dimension) is int and dimension >= 1, "dimension is an int of at least 1", repr(dimension))
    assert isinstance(dimension, int)
    return dimension


def _check_claims(bound: BoundSubspace, loaded: LoadedModel, X: np.ndarray) -> None:
    """`dimension`, `parameters`, `blocks` and `prompt` say what is."""
    given = X.copy()
    with promised("deltas(X) gives the changes of candidates X (n, d)"):
        changes = changes_of(bound, loaded.model, X)
    require(np.array_equal(X, given), "deltas(X) leaves X as it is")
    wild = [name for name, change in changes[1].items() if not change.isfinite().all()]
    require(not wild, "changes are finite", f"{wild} are not")
    moved = {name for name in changes[1] if not name.startswith("prompt ")}
    found = getattr(bound, "parameters", None)
    require(isinstance(found, (tuple, list)), "parameters is a tuple of names of stored tensors", repr(found))
    names = tuple(bound.parameters)
    require(len(set(names)) == len(names), "parameters names each tensor once", ", ".join(names))
    require(
        moved == set(names),
        "parameters names the stored tensors that move",
        f"it has {sorted(set(names) - moved)} besides and lacks {sorted(moved - set(names))}",
    )
    still = [name for name, change in changes[1].items() if not change.count_nonzero()]
    require(not still, "whatever is named moves", f"{still} do not")
    blocks = bound.blocks
    require(not blocks or sum(blocks) == bound.dimension, "blocks sum to the dimension", f"{blocks}")
    require(isinstance(bound.prompt, tuple), "prompt is a tuple of token ids", repr(bound.prompt))
    offsets = len(changes[1]) > len(moved)
    require(bound.prompt or not offsets, "whoever moves a prompt has one", "prompt is empty")
    chosen = np.sort(np.random.default_rng(0).permutation(bound.dimension)[:SOME])
    for k in chosen.tolist():
        unit = np.zeros((1, bound.dimension))
        unit[0, k] = 1.0
        require(
            size_of(changes_of(bound, loaded.model, unit)[0]) > 0, "every coordinate moves something", f"{k} does not"
        )


def _check_map(bound: BoundSubspace, loaded: LoadedModel, X: np.ndarray) -> None:
    """Zero at zero, one candidate apart from another, linear, differentiable."""
    for zero in (np.zeros((1, bound.dimension)), -np.zeros((2, bound.dimension))):
        found = max(size_of(changes) for changes in changes_of(bound, loaded.model, zero))
        require(found == 0, "x = 0 changes nothing", f"a change of size {found:.2g}")
    for i, together in enumerate(changes_of(bound, loaded.model, X)):
        alone = changes_of(bound, loaded.model, X[i : i + 1])[0]
        error = distance(together, alone)
        require(error <= _exact(loaded), "candidates of one call do not mix", f"candidate {i} is off by {error:.2g}")
    a, b = 30.0, -0.5  # far outside the bounds too
    of_x, of_y, of_both = changes_of(bound, loaded.model, np.stack([X[0], X[1], a * X[0] + b * X[1]]))
    error = distance(of_both, combined(a, of_x, b, of_y))
    require(error <= _exact(loaded), "the change is linear in x", f"f(30x − y/2) is {error:.2g} from 30f(x) − f(y)/2")
    point = torch.tensor(X[:1], requires_grad=True, device=loaded.model.device)
    with promised("deltas are differentiable in X"):
        changes = torch.cat([c.double().reshape(-1) for c in changes_of(bound, loaded.model, point)[0].values()])
        weighted = changes * (1 + changes.detach())
        (gradient,) = torch.autograd.grad(weighted.sum(), point)
    # A linear map Σ w c(x) with fixed w is its gradient times x.
    slope, value = float((gradient * point).sum().detach()), float(weighted.sum().detach())
    size = float(weighted.detach().abs().sum())
    require(abs(slope - value) <= _exact(loaded) * size, "gradients are those of the map", f"{slope} for {value}")


def _check_repeats(bound: BoundSubspace, again: BoundSubspace, loaded: LoadedModel, X: np.ndarray) -> None:
    first, second = (changes_of(bound, loaded.model, X[:1])[0] for _ in range(2))
    require(distance(first, second) == 0, "the same X gives the same changes")
    error = distance(first, changes_of(again, loaded.model, X[:1])[0])
    require(error == 0, "binding again with the same seed gives the same map", f"off by {error:.2g}")
    _basis(bound)
    require(bound.basis_hash() == again.basis_hash(), "binding again with the same seed gives the same basis")


def _check_basis(subspace: Subspace, bound: BoundSubspace, loaded: LoadedModel, seed: int, X: np.ndarray) -> None:
    """`basis` yields the tensors in use, all of them: the map follows from a stored basis, whatever was drawn, and
    however a decomposition comes out."""
    model = loaded.model
    with turned_decompositions():
        other = subspace.bind(loaded, seed + 1)
    tensors = _basis(other)
    again = list(other.basis())
    same = len(again) == len(tensors) and all(a is b for a, b in zip(tensors, again, strict=True))
    require(same, "basis() yields the very tensors in use", "it makes new ones at each call")
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shared = [k for k, t in enumerate(tensors) if t.untyped_storage().data_ptr() in own]
    require(not shared, "basis() yields none of the model's own tensors", f"number {shared} share memory with them")
    for k in np.sort(np.random.default_rng(0).permutation(len(tensors))[:SOME]).tolist():
        _check_in_use(other, tensors[k], k, model, X)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "basis.safetensors"
        with promised("a basis can be stored"):
            save_basis(bound, path)
        with promised("a stored basis can be loaded into a map of another seed"):
            load_basis(other, path)
    expected, found = (changes_of(b, model, X[:1])[0] for b in (bound, other))
    error = distance(expected, found)
    require(error == 0, "the map follows from its basis", f"with the stored one, another's is off by {error:.2g}")
    require(bound.prompt == other.prompt, "the prompt follows from the basis", f"{other.prompt} for {bound.prompt}")


def _basis(bound: BoundSubspace) -> list[torch.Tensor]:
    promise = "basis() yields the tensors that define the map"
    with promised(promise):
        tensors = list(bound.basis())
    require(tensors, promise, "it yields none")
    strange = sorted({type(t).__name__ for t in tensors if not isinstance(t, torch.Tensor)})
    require(not strange, promise, f"it yields {', '.join(strange)}")
    places = {(t.data_ptr(), t.nbytes) for t in tensors if t.nbytes}
    require(len(places) == sum(t.nbytes > 0 for t in tensors), promise, "it yields one of them twice")
    return tensors


def _check_in_use(bound: BoundSubspace, tensor: torch.Tensor, k: int, model: Any, X: np.ndarray) -> None:
    """Writing other numbers into a tensor of the basis must change the map, or the prompt."""
    before, expected, prompt = tensor.clone(), changes_of(bound, model, X[:1])[0], bound.prompt
    with torch.no_grad():
        if tensor.is_floating_point():
            tensor.mul_(2)
        else:  # numbers of places, say: others must stay among those there are
            tensor.copy_(tensor.flatten().roll(1).reshape(tensor.shape))
        changed = not torch.equal(tensor, before)
        found = distance(changes_of(bound, model, X[:1])[0], expected) or bound.prompt != prompt
        tensor.copy_(before)
    require(found or not changed, "basis() yields the very tensors in use", f"changing number {k} changes nothing")


def _check_values(bound: BoundSubspace, loaded: LoadedModel, task: Task, seed: int, X: np.ndarray) -> None:
    """The evaluators agree, and a value does not depend on its population."""
    batch = Batches(task, loaded, seed, None, bound.prompt).split("search")
    points = np.concatenate([np.zeros((1, bound.dimension)), X, 0.1 * X])
    reference = SerialEvaluator(loaded, bound)
    evaluators: list[SerialEvaluator] = [reference]
    try:
        fast = (
            EncoderDecoderEvaluator(loaded, bound)
            if loaded.kind == "seq2seq"
            else ReplayEvaluator(loaded, bound, batch)
        )
        evaluators.append(fast)
    except NotReplayableError:
        pass  # nothing to compare with
    with promised("every candidate can be evaluated"):
        values = [evaluator.log_probs(points, batch) for evaluator in evaluators]
    for evaluator, together in zip(evaluators, values, strict=True):
        error = float(np.abs(batch.comparable(together) - batch.comparable(values[0])).max())
        limit = TOLERANCE[str(loaded.model.dtype).removeprefix("torch.")]
        require(
            error <= limit, f"the {evaluator.name} evaluator gives the serial one's values", f"off by {error:.2g} nats"
        )
        for i in (0, 2, len(points) - 1):
            alone = evaluator.log_probs(points[i : i + 1], batch)[0]
            require(
                np.array_equal(alone, together[i]),
                f"a value of the {evaluator.name} evaluator does not depend on its population",
            )


def _exact(loaded: LoadedModel) -> float:
    return _EXACT.get(str(loaded.model.dtype).removeprefix("torch."), 0.05)


def _random_state() -> tuple[bytes, str, object]:
    """Of the generators that belong to everybody."""
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002


def _some_words(loaded: LoadedModel) -> Task:
    """A few tokens to predict, or to answer with."""
    text = "the first of many plain words that stand in a row so that there is something to read here and to predict "
    if loaded.kind != "seq2seq":
        return LanguageModelling.from_string(text * 6, window=12, search_size=3, dev_size=1, test_size=1)
    records = [{"text": text[:k], "label": "ab"[k % 2]} for k in range(8, 40)]
    return Classification.from_records(
        records, text="text", label="label", prompt="{text}", labels={"a": "good", "b": "bad"}, search_size=3
    )
