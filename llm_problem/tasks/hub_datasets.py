"""Examples from the `datasets` library: a name on the Hugging Face hub, or a local folder of data files.

"hf:name:split" or "hf:name:config:split", where name is "owner/name" or a folder. Nothing is fetched that was not asked
for by name, and a line on stderr says so; what is in the library's cache is read without a connection.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

PREFIX = "hf:"
_FORM = re.compile(r"hf:(?P<name>[^:]+)(?::(?P<config>[^:\[\]]+))?:(?P<split>[^:\[\]]+(?:\[[^\]]*\])?)")
_INSTALL = "pip install 'datasets>=4.0'"


def source_of(name: str, config: str | None, split: str) -> str:
    """The source that stands for a split of a data set; the path of a local folder becomes an absolute one.

    Raises:
        ValueError: parts that do not make one.
    """
    folder = Path(name).expanduser()
    where = str(folder.absolute()) if folder.is_dir() else name
    source = f"{PREFIX}{where}:{config}:{split}" if config is not None else f"{PREFIX}{where}:{split}"
    _parts(source)
    return source


def completed(source: str) -> str:
    """A source as someone wrote it, with the path of a local folder made absolute."""
    return source_of(*_parts(source))


def short_name(source: str) -> str:
    """For cards: without the folder that a local one lies in."""
    name, config, split = _parts(source)
    return ":".join(part for part in (PREFIX + name.rpartition("/")[2], config, split) if part)


@lru_cache(maxsize=4)
def records(source: str) -> tuple[dict[str, Any], ...]:
    """The rows of a split, column → value.

    Raises:
        ImportError: the library is not installed; the message is the pip line.
        ValueError: no such data set, configuration or split, or no connection and nothing in the cache.
    """
    name, config, split = _parts(source)
    try:
        import datasets
    except ImportError:
        raise ImportError(f"{source} is read with the datasets library: {_INSTALL}") from None
    if not Path(name).is_dir():
        print(f"reading {source} from the cache of datasets, or from the Hugging Face hub", file=sys.stderr)
    try:
        found = datasets.load_dataset(name, config, split=split)
    except ConnectionError as error:
        raise ValueError(
            f"{source} is not in the cache of datasets, and the hub cannot be reached ({error}): read it once with a "
            "connection, or give a local file"
        ) from error
    except (OSError, ValueError) as error:  # which the library raises for names that there are not
        raise ValueError(f"cannot read {source}: {error}") from error
    return tuple(dict(row) for row in found)


def _parts(source: str) -> tuple[str, str | None, str]:
    match = _FORM.fullmatch(source)
    if match is None:
        raise ValueError(f"a data set is named as hf:name:split or hf:name:config:split, got {source!r}")
    return match["name"], match["config"], match["split"]
