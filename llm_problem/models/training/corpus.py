"""English text from the documentation strings of Python's standard library.

The source files of the running Python are parsed with `ast` and never imported, so that gathering
has no side effects and gives the same text on every platform that ships the same sources.

The text is split by top-level module: a hash of the module's name decides whether the module is for
training, for development (early stopping and tuning) or held out.  A paragraph is kept once only, and one
that occurs in several parts stays in the first of training, development and held-out; so no held-out
paragraph was seen in training.
"""

import ast
import hashlib
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal["train", "dev", "heldout"]
PARTS: tuple[Part, ...] = ("train", "dev", "heldout")

# Tests are code rather than prose; the others are vendored, generated or absent from many distributions.
EXCLUDED_FOLDERS = frozenset(
    {
        "__pycache__",
        "_bundled",
        "dist-packages",
        "idle_test",
        "lib-dynload",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
EXCLUDED_PREFIXES = ("_sysconfigdata", "__phello__", "_sysconfig_vars")

MIN_WORDS = 4
MIN_LETTER_SHARE = 0.8

# Chosen, before any model was trained, so that each part has a varied tenth of the modules without one of
# the few very large packages, which are better used for training.
_PART_OF_DECADE: dict[int, Part] = {1: "dev", 3: "heldout"}

_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# What can hold a definition; expressions cannot, and not visiting them makes the walk many times faster.
_BLOCKS = (ast.stmt, ast.ExceptHandler, ast.match_case)


@dataclass(frozen=True)
class Document:
    """One cleaned documentation string.

    `module` is the top-level module it came from; `text` has one paragraph per line.
    """

    module: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """The three parts of the text, each a tuple of documents in a fixed order."""

    train: tuple[Document, ...]
    dev: tuple[Document, ...]
    heldout: tuple[Document, ...]

    def modules(self, part: Part) -> list[str]:
        """Sorted names of the top-level modules that have text in `part`."""
        return sorted({document.module for document in getattr(self, part)})

    def texts(self, part: Part) -> list[str]:
        """The texts of the documents of `part`, in order."""
        return [document.text for document in getattr(self, part)]


def stdlib_root() -> Path:
    """Folder of the running Python's standard library sources."""
    return Path(sysconfig.get_paths()["stdlib"])


def part_of(module: str) -> Part:
    """The part a top-level module belongs to: of 100 hash buckets, ten are held out, ten for development.

    Leading `_py` and `_` do not count, so that an accelerated module and its Python twin
    (`decimal` and `_pydecimal`, `io` and `_pyio`), whose texts are alike, fall in the same part.
    """
    name = re.sub(r"^_(py)?", "", module)
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 100
    return _PART_OF_DECADE.get(bucket // 10, "train")


def source_files(root: Path) -> list[Path]:
    """Paths relative to `root` of the sources to read, sorted by their parts."""
    found = (path.relative_to(root) for path in root.rglob("*.py"))
    return sorted((path for path in found if _wanted(path)), key=lambda path: path.parts)


def _wanted(path: Path) -> bool:
    folders = path.parts[:-1]
    if any(folder in EXCLUDED_FOLDERS or folder.startswith("config-") for folder in folders):
        return False
    return not path.name.startswith(EXCLUDED_PREFIXES)


def docstrings(source: bytes) -> Iterator[str]:
    """Documentation strings of a module, its classes and its functions, in source order, uncleaned.

    Yields nothing for a source that this Python cannot parse.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the library's sources are not our matter
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    yield from _docstrings_below(tree)


def _docstrings_below(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.Module, *_DEFINITIONS)):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _BLOCKS):
            yield from _docstrings_below(child)


def prose_paragraphs(docstring: str) -> list[str]:
    """The paragraphs of English in a documentation string, each on one line with single spaces.

    Doctests, tables, signatures and code samples are dropped: a paragraph counts as prose if it has at
    least `MIN_WORDS` words and at least `MIN_LETTER_SHARE` of its characters are letters or spaces.
    """
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    return [" ".join(block.split()) for block in blocks if _is_prose(block)]


def _is_prose(block: str) -> bool:
    if any(line.lstrip().startswith(">>>") for line in block.splitlines()):
        return False
    words = block.split()
    text = " ".join(words)
    letters = sum(character.isalpha() or character == " " for character in text)
    return len(words) >= MIN_WORDS and letters >= MIN_LETTER_SHARE * len(text)


def paragraph_key(paragraph: str) -> str:
    """What two paragraphs must share to count as the same: their words, lower-case, without punctuation."""
    return " ".join(re.findall(r"\w+", paragraph.lower()))


def gather(root: Path | None = None) -> Corpus:
    """Read, clean, split and de-duplicate the documentation strings below `root`.

    Parameters
    ----------
    root
        Folder of a standard library; the running Python's when not given.

    Raises `RuntimeError` if there is no text (a Python installed without its sources).
    """
    root = stdlib_root() if root is None else root
    raw: dict[Part, list[tuple[str, list[str]]]] = {part: [] for part in PARTS}
    for path in source_files(root):
        module = path.parts[0].removesuffix(".py")
        for docstring in docstrings((root / path).read_bytes()):
            raw[part_of(module)].append((module, prose_paragraphs(docstring)))
    seen: set[str] = set()
    corpus = Corpus(*(_deduplicated(raw[part], seen) for part in PARTS))
    if not (corpus.train and corpus.dev and corpus.heldout):
        raise RuntimeError(f"too few documentation strings in {root}: is Python there without its sources?")
    return corpus


def _deduplicated(entries: list[tuple[str, list[str]]], seen: set[str]) -> tuple[Document, ...]:
    """Documents of `entries` without the paragraphs in `seen`, which grows by those kept."""
    documents = []
    for module, paragraphs in entries:
        kept = []
        for paragraph in paragraphs:
            key = paragraph_key(paragraph)
            if key not in seen:
                seen.add(key)
                kept.append(paragraph)
        if kept:
            documents.append(Document(module, "\n".join(kept)))
    return tuple(documents)
