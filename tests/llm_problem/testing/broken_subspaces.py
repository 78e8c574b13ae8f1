"""Subspaces that each break one promise; registered where they are used."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from llm_problem.models.targets import find_targets
from llm_problem.subspaces import RandomSubspace
from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.deltas import WeightDelta


class Bound(BoundSubspace):
    """Keeps every promise: directions drawn from the seed, for the query weights of the last layer."""

    def __init__(self, model, seed):
        (self.target,) = find_targets(model.model, "q_proj", 1)
        self.dimension, self.parameters = 3, (self.target.parameter,)
        self.directions = torch.tensor(self.draw(np.random.default_rng([seed, 1]), (3, *self.target.shape))).float()

    def draw(self, rng, shape):
        return 0.01 * rng.standard_normal(shape)

    def value(self, X):
        return torch.einsum("nd,doi->noi", X.to(self.directions), self.directions)

    def deltas(self, X):
        return [WeightDelta(self.target, self.value(X))]

    def basis(self):
        yield self.directions


@dataclass(frozen=True)
class Own(Subspace):
    """A subspace of one's own, as it should be."""

    kind: ClassVar[str] = "own"
    bound: ClassVar[type] = Bound
    promise: ClassVar[str] = ""

    def bind(self, model, seed):
        return self.bound(model, seed)


class Shifted(Own):
    kind, promise = "shifted", "x = 0 changes nothing"

    class bound(Bound):
        def value(self, X):
            return super().value(X) + 1e-3


class Quadratic(Own):
    kind, promise = "quadratic", "the change is linear in x"

    class bound(Bound):
        def value(self, X):
            return super().value(X * X.abs())


class Clipped(Own):
    """Linear within the bounds."""

    kind, promise = "clipped", "the change is linear in x"

    class bound(Bound):
        def value(self, X):
            return super().value(X.clamp(-5, 5))


class HalfStored(Own):
    """Between singular vectors of which only the right ones are in the basis."""

    kind, promise = "half-stored", "the map follows from its basis"

    class bound(Bound):
        def __init__(self, model, seed):
            super().__init__(model, seed)
            weight = self.target.read(dict(model.model.named_parameters())[self.target.parameter])
            left, values, right = np.linalg.svd(weight.detach().numpy(), full_matrices=False)
            self.left, self.right = torch.from_numpy(left[:, :3] * values[:3]), torch.from_numpy(right[:3].copy())

        def value(self, X):
            return (self.left * X[:, None].to(self.left)) @ self.right

        def basis(self):
            yield self.right


class Overwriting(Own):
    kind, promise = "overwriting", "deltas\\(X\\) leaves X as it is"

    class bound(Bound):
        def value(self, X):
            return super().value(X.mul_(2))


class Mixing(Own):
    kind, promise = "mixing", "candidates of one call do not mix"

    class bound(Bound):
        def value(self, X):
            return super().value(X + 0.1 * X.roll(1, dims=0) if len(X) > 1 else X)


class Global(Own):
    kind, promise = "global", "binding draws from a generator of its own"

    class bound(Bound):
        def draw(self, rng, shape):
            return 0.01 * np.random.standard_normal(shape)  # noqa: NPY002


class Unseeded(Own):
    kind, promise = "unseeded", "binding again with the same seed gives the same map"

    class bound(Bound):
        def draw(self, rng, shape):
            return 0.01 * np.random.default_rng().standard_normal(shape)


class Copies(Own):
    kind, promise = "copies", "basis\\(\\) yields the very tensors in use: it makes new ones"

    class bound(Bound):
        def basis(self):
            yield self.directions.clone()


class Idle(Own):
    kind, promise = "idle", "basis\\(\\) yields the very tensors in use: changing number 1 changes nothing"

    class bound(Bound):
        def basis(self):
            self.__dict__.setdefault("unused", torch.ones(3))
            yield from (self.directions, self.unused)


class Partial(Own):
    kind, promise = "partial", "the map follows from its basis"

    class bound(Bound):
        def basis(self):
            self.__dict__.setdefault("half", self.directions[:2])
            yield self.half


class Borrowed(Own):
    kind, promise = "borrowed", "basis\\(\\) yields none of the model's own tensors"

    class bound(Bound):
        def __init__(self, model, seed):
            super().__init__(model, seed)
            self.weight = self.target.read(dict(model.model.named_parameters())[self.target.parameter])

        def value(self, X):
            return super().value(X) + X[:, :1, None].to(self.weight) * self.weight

        def basis(self):
            yield from (self.directions, self.weight)


class Detached(Own):
    kind, promise = "detached", "deltas are differentiable in X"

    class bound(Bound):
        def value(self, X):
            return super().value(X.detach())


class HalfDetached(Own):
    kind, promise = "half-detached", "gradients are those of the map"

    class bound(Bound):
        def value(self, X):
            return super().value(X.detach() + X) / 2


class TooMany(Own):
    kind, promise = "too-many", "every coordinate moves something: 3 does not"

    class bound(Bound):
        def __init__(self, model, seed):
            super().__init__(model, seed)
            self.dimension = 4

        def value(self, X):
            return super().value(X[:, :3])


class Misnamed(Own):
    kind, promise = "misnamed", "parameters names the stored tensors that move"

    class bound(Bound):
        def __init__(self, model, seed):
            super().__init__(model, seed)
            self.parameters = (self.target.parameter.replace("q_proj", "k_proj").replace("c_attn", "c_proj"),)


class Writing(Own):
    kind, promise = "writing", "the model stays as it was"

    class bound(Bound):
        def __init__(self, model, seed):
            super().__init__(model, seed)
            dict(model.model.named_parameters())[self.target.parameter].data *= 1 + 1e-6


class DrawnPrompt(Own):
    """Whose prompt follows from the seed and does not stand in the basis."""

    kind, promise = "drawn-prompt", "the prompt follows from the basis: \\(6, 7\\) for \\(5, 7\\)"

    class bound(Bound):
        def __init__(self, model, seed):
            super().__init__(model, seed)
            self.prompt = (5 + seed, 7)


class Listed(Own):
    kind, promise = "listed", "prompt is a tuple of token ids"

    class bound(Bound):
        prompt = [5, 7]  # noqa: RUF012


class Unbound(Own):
    kind, promise = "unbound", "gives a BoundSubspace: dict"

    def bind(self, model, seed):
        return {"dimension": 3}


class TooManyRows(Own):
    kind, promise = "too-many-rows", "deltas have a row for each candidate: .* has 6 for 3"

    class bound(Bound):
        def value(self, X):
            return super().value(X).repeat(2, 1, 1)


class NotFinite(Own):
    kind, promise = "not-finite", "changes are finite"

    class bound(Bound):
        def value(self, X):
            return super().value(X) / (X[:, :1, None] != X[:, :1, None])


class OneName(Own):
    kind, promise = "one-name", "parameters is a tuple of names of stored tensors: '.*weight'"

    class bound(Bound):
        def __init__(self, model, seed):
            super().__init__(model, seed)
            self.parameters = self.target.parameter


class Arrays(Own):
    kind, promise = "arrays", "basis\\(\\) yields the tensors that define the map: it yields ndarray"

    class bound(Bound):
        def basis(self):
            yield self.directions.numpy()


class Nothing(Own):
    kind, promise = "nothing", "basis\\(\\) yields the tensors that define the map: it raised TypeError"

    class bound(Bound):
        def basis(self):
            return None


class Twice(Own):
    kind, promise = "twice", "basis\\(\\) yields the tensors that define the map: it yields one of them twice"

    class bound(Bound):
        def basis(self):
            yield from (self.directions, self.directions)


class Renamed(Own):
    kind, promise = "renamed", "the description of a bound subspace gives its map"

    class bound(Bound):
        def __init__(self, model, seed):
            super().__init__(model, seed)
            self.description = RandomSubspace(3, layers=1)


class Forgetful(Own):
    """Whose map follows from something that its description does not hold."""

    kind, promise = "forgetful", "the JSON description gives the same changes in another process"
    secret: ClassVar[float] = 1.0

    class bound(Bound):
        def value(self, X):
            return Forgetful.secret * super().value(X)


BROKEN = [
    Shifted,
    Quadratic,
    Clipped,
    HalfStored,
    Overwriting,
    Mixing,
    Global,
    Unseeded,
    Copies,
    Idle,
    Partial,
    Borrowed,
    Detached,
    HalfDetached,
    TooMany,
    Misnamed,
    Writing,
    DrawnPrompt,
    Listed,
    Unbound,
    TooManyRows,
    NotFinite,
    OneName,
    Arrays,
    Nothing,
    Twice,
    Renamed,
]
