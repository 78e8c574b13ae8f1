"""`python -m llm_problem_adapters.experiments.round_trips`: the way home, for every subspace.

A point of each kind of subspace on each model is written as a PEFT adapter and as a whole model, read back from the
files by `peft.PeftModel.from_pretrained` and by plain transformers in float32, and its loss computed by their stock
forward. The table has the differences from the loss that the problem gave, or why a kind cannot be written this way;
`--markdown` prints it as docs/round-trips.md has it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

import llm_problem as lp
from llm_problem.models import load_model
from llm_problem.models.loading import LoadedModel
from llm_problem.models.quiet import quiet_transformers
from llm_problem.study.console import table_console
from llm_problem.subspaces import (
    SUBSPACES,
    AdapterMix,
    Fastfood,
    FullVector,
    LoRA,
    LoRAXS,
    ModelMix,
    NormsAndBiases,
    Prefix,
    RandomSubspace,
    Scales,
    SingularValues,
    SoftPrompt,
    SparseProjection,
    Subspace,
    TinyLoRA,
    Together,
    VeRA,
)
from llm_problem.tasks import Data, LanguageModelling
from llm_problem.testing.exported import log_probs
from llm_problem_adapters.experiments.markdown import markdown

LIMIT = 1e-5  # nats per token
MODELS = ("smollm2-135m", "tiny-gpt2", "tiny-bert")
MODULES = ("q_proj", "v_proj", "down_proj")
COLUMNS = {
    "model": False,
    "subspace": False,
    "d": True,
    "f(x) − f(0)": True,
    "PEFT adapter": False,
    "|Δ|": True,
    "whole model, |Δ|": True,
}
"""Of the table; whether what stands in it is set to the right."""
TEXT = "An essay on the ways of the world:"


def _two_adapters(loaded: LoadedModel, folder: Path) -> Subspace:
    """A mix of adapters that this project has written."""
    for number in range(2):
        problem = problem_of(loaded, LoRA(1 + number, layers=2, modules=MODULES))
        problem.save_adapter(3 * point_of(problem, number), folder / str(number))  # far enough for half of it to show
    return AdapterMix([folder / "0", folder / "1"])


def _two_models(loaded: LoadedModel, folder: Path) -> Subspace:
    """A mix of models that this project has written."""
    for number in range(2):
        problem = problem_of(loaded, RandomSubspace(3, layers=1 + number, modules=MODULES))
        problem.save_model(point_of(problem, number), folder / str(number))
    return ModelMix([folder / "0", folder / "1"])


EXAMPLES: dict[str, Subspace | Callable[[LoadedModel, Path], Subspace]] = {
    "adapter-mix": _two_adapters,
    "fastfood": Fastfood(16, layers=2, modules=MODULES),
    "full": FullVector(),
    "lora": LoRA(2, layers=2, modules=MODULES),
    "lora-xs": LoRAXS(4, layers=2, modules=MODULES),
    "model-mix": _two_models,
    "norms-and-biases": NormsAndBiases(layers=2, final_norm=True),
    "prefix": Prefix(TEXT, 16),
    "random": RandomSubspace(8, layers=2, modules=MODULES),
    "scales": Scales(layers=2),
    "singular-values": SingularValues(rank=16, layers=2, modules=MODULES),
    "soft-prompt": SoftPrompt(TEXT, 16),
    "sparse-projection": SparseProjection(16, layers=2, modules=MODULES),
    "tiny-lora": TinyLoRA(8, rank=2, layers=2, modules=MODULES),
    "together": Together((LoRAXS(4, layers=2), NormsAndBiases(layers=2, biases=False))),
    "vera": VeRA(8, layers=2, modules=MODULES),
}
"""One description of every kind; a function where it needs files of its own."""


@dataclass(frozen=True)
class RoundTrip:
    """One row: the type of the adapter and |Δ loss| after reading it and the whole model back; else the reason.

    `moved` is f(x) − f(0): how much there is to lose on the way.
    """

    model: str
    kind: str
    dimension: int | None
    moved: float | None
    adapter: str
    adapter_difference: float | None
    merged: str
    merged_difference: float | None

    @property
    def kept(self) -> bool:
        """Whether all that was written has the loss that it had."""
        differences = [d for d in (self.adapter_difference, self.merged_difference) if d is not None]
        return all(difference <= LIMIT for difference in differences)


def problem_of(loaded: LoadedModel, subspace: Subspace) -> lp.Problem:
    """Four windows of the embedded prose."""
    task = LanguageModelling(Data.of("embedded:prose"), window=24, search_size=4, dev_size=4, test_size=4)
    return lp.Problem(loaded, task, subspace, seed=3)


def point_of(problem: lp.Problem, seed: int = 0) -> np.ndarray:
    """x ~ N(0, I), (d,)."""
    return np.random.default_rng(seed).standard_normal(problem.dimension)


def round_trips(models: Sequence[str] = MODELS, kinds: Sequence[str] | None = None) -> Iterator[RoundTrip]:
    """A row for each model and kind, as they are made.

    Raises:
        ValueError: a registered kind has no example here, or one that is asked for is not registered.
    """
    kinds = sorted(SUBSPACES) if kinds is None else kinds
    if missing := sorted(set(kinds) - set(EXAMPLES)):
        raise ValueError(f"no example of {', '.join(missing)} in EXAMPLES of {Path(__file__).name}: add one")
    for name in models:
        loaded = load_model(name)
        for kind in kinds:
            with tempfile.TemporaryDirectory() as folder, quiet_transformers(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PEFT's advice on layers that it has no shape of
                yield _round_trip(loaded, kind, Path(folder))


def _round_trip(loaded: LoadedModel, kind: str, folder: Path) -> RoundTrip:
    made = EXAMPLES[kind]
    (folder / "parts").mkdir()
    try:
        problem = problem_of(loaded, made if isinstance(made, Subspace) else made(loaded, folder / "parts"))
    except ValueError as error:
        return RoundTrip(loaded.name, kind, None, None, str(error), None, "", None)
    x = point_of(problem)
    start, loss = problem.evaluate([problem.x0, x])
    adapter, there = _written(problem.save_adapter, x, folder / "adapter")
    found = _difference(problem, _adapted(loaded, folder / "adapter"), loss) if there else None
    merged, there = _written(problem.save_model, x, folder / "model")
    whole = _difference(problem, _plain(loaded, folder / "model"), loss) if there else None
    if found is not None:
        adapter = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))["peft_type"]
    return RoundTrip(loaded.name, kind, problem.dimension, loss - start, adapter, found, merged, whole)


def _written(save: Callable[..., None], x: np.ndarray, folder: Path) -> tuple[str, bool]:
    """Why a point was refused, if it was, and whether it was written."""
    try:
        save(x, folder)
    except ValueError as error:
        return str(error).partition(":")[0], False
    return "", True


def _plain(loaded: LoadedModel, folder: Path | str) -> Any:
    """A model of the same class from files, by transformers alone."""
    return type(loaded.model).from_pretrained(folder, dtype="float32").eval()


def _adapted(loaded: LoadedModel, folder: Path) -> Any:
    import peft

    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    return peft.PeftModel.from_pretrained(_plain(loaded, base), folder).eval()


def _difference(problem: lp.Problem, model: Any, loss: float) -> float:
    """|Δ loss| of another model, by its own forward on one text at a time; an adapter brings its prompt itself."""
    task = problem.spec.task
    batch = task.batch(load_model(problem.spec.model), "search", problem.spec.seed)
    return abs(task.scores(log_probs(model, batch), batch)["loss"] - loss)


def table_of(rows: Sequence[RoundTrip]) -> Table:
    """The rows as a table; a difference above the limit is marked."""
    table = Table(title=f"|Δ loss| after the way home, in nats per token (at most {LIMIT:g})", title_justify="left")
    for name, right in COLUMNS.items():
        table.add_column(name, justify="right" if right else "left", no_wrap=name in ("model", "subspace"))
    for number, row in enumerate(rows):
        last = number + 1 == len(rows) or rows[number + 1].model != row.model
        differences = {"|Δ|": row.adapter_difference, "whole model, |Δ|": row.merged_difference}
        bad = {name for name, difference in differences.items() if difference is not None and not difference <= LIMIT}
        cells = zip(COLUMNS, _cells(row), strict=True)
        table.add_row(*(Text(cell, style="bold red" if name in bad else "") for name, cell in cells), end_section=last)
    return table


def markdown_of(rows: Sequence[RoundTrip]) -> str:
    """The same as a table in Markdown."""
    return markdown(list(COLUMNS), list(map(_cells, rows)), list(COLUMNS.values()))


def _cells(row: RoundTrip) -> list[str]:
    return [
        row.model,
        row.kind,
        "" if row.dimension is None else f"{row.dimension:,}",
        "" if row.moved is None else f"{row.moved:+.1e}",
        row.adapter,
        _shown(row.adapter_difference),
        _shown(row.merged_difference) or row.merged,
    ]


def _shown(difference: float | None) -> str:
    return "" if difference is None else f"{difference:.1e}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 1 where a loss was not kept, else 0."""
    parser = argparse.ArgumentParser(prog="round_trips", description="Write, read back and compare every subspace.")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--kinds", nargs="+", choices=sorted(SUBSPACES), metavar="KIND", help="default: all")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    rows = list(round_trips(options.models, options.kinds))
    if options.markdown:
        print(markdown_of(rows))
    else:
        table_console().print(table_of(rows))
    lost = [row for row in rows if not row.kept]
    for row in lost:
        print(f"{row.kind} on {row.model} does not come home with its loss", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
