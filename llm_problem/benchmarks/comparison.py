"""The sections `layers` and `lm`: ours beside the document's loop and the expert's, by number of searched layers."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

from llm_problem.benchmarks.contestants import DOCUMENT, EXPERT, OURS, POPULATION, field_of
from llm_problem.benchmarks.report import Report, Sheet
from llm_problem.benchmarks.settings import FOCUS, RANK, WINDOW, Settings, describe
from llm_problem.benchmarks.timing import Race, race, spread
from llm_problem.models.cache import say
from llm_problem.tasks import Task


def layers(settings: Settings) -> Report:
    """Label words after sentences."""
    counts = settings.layer_counts()
    return _compare(settings, settings.label_task(), counts, "Sentences and label words", "sentiment", settings.data)


def lm(settings: Settings) -> Report:
    """Windows of running text; every token but the first is predicted."""
    counts = settings.layer_counts(FOCUS)
    return _compare(settings, settings.text_task(), counts, f"Windows of {WINDOW} tokens", "prose", settings.text)


def _compare(settings: Settings, task: Task, counts: Sequence[int], title: str, embedded: str, source: Any) -> Report:
    sheet = Sheet(
        f"{title}: ms an evaluation, LoRA-XS of rank {RANK} on q and v",
        (
            "last\nlayers",
            "d",
            "document's\nloop",
            "expert's\nloop",
            "ours",
            f"ours, in\n{settings.population}s",
            "document\n/ ours",
            "expert\n/ ours",
            f"document\n/ in {settings.population}s",
            "losses\napart",
        ),
    )
    rows: list[dict[str, Any]] = []
    expert_batch: int | None = None
    for k in counts:
        found = field_of(settings.problem(task, k), settings.population, expert_batch)
        expert_batch = found.expert_batch  # the sequences are the same in every row
        outcome = race(found.contestants, found.problem.dimension, settings.rounds, settings.least)
        sheet.rows.append((str(k), str(found.problem.dimension), *_cells(outcome), f"{outcome.losses_apart:.1e}"))
        if not rows:
            sheet.notes.append(describe(found.problem, source, embedded))
        notes = [note for note in found.notes if note not in sheet.notes]
        sheet.notes += [f"last {k}: {note}" if rows else note for note in notes]
        rows.append(
            {
                "layers": k,
                "dimension": found.problem.dimension,
                "evaluator": found.problem.card()["evaluator"],
                "expert_batch": expert_batch,
                "seconds": outcome.seconds,
                "losses_apart": outcome.losses_apart,
            }
        )
        say(f"last {k} layers measured")
        del found  # two more copies of the model go before the next row's come
        gc.collect()
    sheet.notes.append(f"medians of {settings.rounds} turns with quartiles; ratios are taken turn by turn")
    return Report([sheet], {"population": settings.population, "data": sheet.notes[0], "rows": rows})


def _cells(outcome: Race) -> list[str]:
    there = outcome.seconds
    names = (DOCUMENT, EXPERT, OURS, POPULATION)
    pairs = ((DOCUMENT, OURS), (EXPERT, OURS), (DOCUMENT, POPULATION))
    return [
        *(spread(outcome.milliseconds(name)) if name in there else "" for name in names),
        *(spread(outcome.ratio(a, b)) if a in there else "" for a, b in pairs),
    ]
