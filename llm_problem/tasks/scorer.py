"""A function of a user's that scores texts, and how a description names it.

A description holds the function's name "module:function" and a checksum of its source, and never runs it: a file that
someone sends could name any function there is. Only one that this process was given, as a function or by its name in
Python code, is called.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Function = Callable[[list[str], list[str], list[Any] | None], Any]
"""(prompts, outputs, references or None) → (N,) numbers, of which less is better; a reference is a text, or a list of
them for question answering."""

_LOCAL = "local:"
_known: dict[str, Function] = {}  # those that this process was given, by name


@dataclass(frozen=True)
class Scorer:
    """`function` is "module:function", or "local:…" for one that no other process can find; `sha256` that of its
    source, None where that cannot be read."""

    function: str
    sha256: str | None = None

    @classmethod
    def of(cls, given: Any) -> Scorer:
        """Describe a function, or the one of a name, which is imported now; from here on it may be called.

        Raises:
            TypeError: neither.
            ValueError: no such function.
        """
        if isinstance(given, Scorer):
            return given
        function = _imported(given) if isinstance(given, str) else given
        if not callable(function):
            raise TypeError(
                "scorer must be a function of (prompts, outputs, references), or the name 'module:function' of one, "
                f"got {given!r}"
            )
        name = _name_of(function)
        _known[name] = function
        return cls(name, _source_hash(function))

    @property
    def portable(self) -> bool:
        """Whether another process can find the function."""
        return not self.function.startswith(_LOCAL)

    def load(self) -> Function:
        """The function.

        Raises:
            ValueError: this process was not given it, or was given another one of this name.
        """
        function = _known.get(self.function)
        if function is None:
            module, _, name = self.function.partition(":")
            raise ValueError(
                f"this description scores texts with {self.function}, and a description runs no code by itself: "
                + (
                    f"import it and say lp.tasks.Scorer.of({module}.{name}) first, if you trust it"
                    if self.portable
                    else "it was made in another process, from a function without a name that can be imported"
                )
            )
        if self.sha256 is not None and _source_hash(function) not in (self.sha256, None):
            raise ValueError(f"the scorer {self.function} has changed since this was described: its source is another")
        return function

    def __call__(self, prompts: list[str], outputs: list[str], references: list[str] | None) -> np.ndarray:
        """Scores (N,) float64.

        Raises:
            ValueError: the function returned another shape, something that is no number, infinity or NaN.
        """
        function = self.load()
        try:
            found = function(prompts, outputs, references)
        except Exception as error:
            error.add_note(
                f"raised by the scorer {self.function}, which is called with (prompts, outputs, references): two lists "
                "of strings, and a third or None"
            )
            raise
        try:
            kind = np.asarray(found).dtype.kind
            if kind not in "biuf" and not (kind == "O" and found is not None and _all_real(found)):
                raise TypeError  # numpy makes numbers of None, of text and of complex numbers
            scores = np.asarray(found, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(self._complaint(outputs, _shortened(found))) from None
        if scores.shape != (len(outputs),):
            raise ValueError(self._complaint(outputs, f"numbers of shape {scores.shape}"))
        if not np.isfinite(scores).all():
            row = int((~np.isfinite(scores)).argmax())
            what = "NaN" if np.isnan(scores[row]) else f"{scores[row]}"
            raise ValueError(self._complaint(outputs, f"{what} for output {row + 1}, {_shortened(outputs[row])}"))
        return scores

    def _complaint(self, outputs: Sequence[str], got: str) -> str:
        return f"the scorer {self.function} must return {len(outputs)} numbers, one for each output; it returned {got}"


def _all_real(values: Any) -> bool:
    """Whether these are numbers of other kinds, such as fractions, or 0-dimensional tensors."""
    return all(not isinstance(value, (str, bytes, complex)) and hasattr(value, "__float__") for value in values)


def _imported(name: str) -> Any:
    module, _, path = name.partition(":")
    if not module or not path:
        raise ValueError(f"a scorer's name must be 'module:function', got {name!r}")
    try:
        return _attribute(importlib.import_module(module), path)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no scorer {name!r}: {error}") from error


def _attribute(holder: Any, path: str) -> Any:
    for part in path.split("."):
        holder = getattr(holder, part)
    return holder


def _name_of(function: Any) -> str:
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    try:
        if module and path and _attribute(sys.modules[module], path) is function:
            return f"{module}:{path}"
    except (KeyError, AttributeError):
        pass
    # The address keeps functions of one name apart, for as long as they are kept here.
    return f"{_LOCAL}{path or type(function).__name__}@{id(function):x}"


def _source_hash(function: Any) -> str | None:
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    except (OSError, TypeError):
        return None


def _shortened(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"
