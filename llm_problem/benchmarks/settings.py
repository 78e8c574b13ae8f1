"""What a run measures: the model, the data, how many layers are searched, how long it takes its time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm_problem.models.loading import load_model
from llm_problem.problem import Problem
from llm_problem.subspaces import LoRAXS
from llm_problem.suites.named import IT_WAS, prose, sentiment
from llm_problem.tasks import Classification, Data, LanguageModelling, Task

LAYERS = (1, 2, 4, 8, 30)
FOCUS = 4  # the layers at which memory, profile and precision are looked at
WORDS = (" terrible", " great")
WINDOW = 64
RANK = 4


@dataclass(frozen=True)
class Settings:
    """What a run measures.

    Args:
        model: a name, a directory or a hub id.
        layers: numbers k of searched last layers; empty for the usual ones that the model has.
        sentences: search examples of the label task.
        windows: search windows of the language-modelling task.
        rounds: turns of each contestant.
        least: seconds that a contestant's turn lasts at least.
        population: candidates that are evaluated at once where a population is.
        data: folder with train.csv, dev.csv and test.csv (columns text and label, negative or positive); None for
            the embedded sentences.
        text: a text file; None for the embedded prose.
        quick: fewer of everything.

    Raises:
        ValueError: what does not fit, with the reason.
    """

    model: str = "smollm2-135m"
    layers: tuple[int, ...] = ()
    sentences: int = 32
    windows: int = 16
    rounds: int = 7
    least: float = 0.2
    population: int = 16
    data: Path | None = None
    text: Path | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        for name, smallest in (("rounds", 1), ("sentences", 2), ("windows", 1), ("population", 1)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {getattr(self, name)}")
        if any(k < 1 for k in self.layers):
            raise ValueError(f"layers must be at least 1, got {' '.join(map(str, self.layers))}")
        if self.data is not None:
            missing = [f for f in ("train.csv", "dev.csv", "test.csv") if not (self.data / f).is_file()]
            if missing:
                raise ValueError(f"{self.data} has no {', '.join(missing)}")
        if self.text is not None and not self.text.is_file():
            raise ValueError(f"there is no file {self.text}")

    def layer_counts(self, most: int | None = None) -> tuple[int, ...]:
        """The numbers of searched last layers, ascending, up to `most`.

        Raises:
            ValueError: more than the model has, or none up to `most`.
        """
        there = load_model(self.model).layers
        if not self.layers:
            wanted = {min(k, there) for k in (LAYERS[:2] if self.quick else LAYERS)}
        elif max(self.layers) > there:
            raise ValueError(f"layers {max(self.layers)}: {self.model} has {there}")
        else:
            wanted = set(self.layers)
        return tuple(sorted(k for k in wanted if most is None or k <= most)) or (min(wanted),)

    def check(self) -> None:
        """Load the model and read the data, so that what does not fit is known before anything is measured.

        Raises:
            ValueError: says what.
        """
        model = load_model(self.model)
        self.layer_counts()
        for task in (self.label_task(), self.text_task()):
            task.batch(model, "search", seed=0)

    def focus(self) -> int:
        """The number of searched layers that one case is looked at with."""
        return self.layer_counts(FOCUS)[-1]

    def label_task(self) -> Task:
        """The sentences and label words."""
        if self.data is None:
            return sentiment(self.sentences, IT_WAS, WORDS)
        rows = Data.of(self.data / "train.csv").rows(("text", "label"))
        classes = ("negative", "positive")
        # The first of each class, as they stand: no draw, whose lengths could be lucky.
        sizes = dict(zip(classes, (self.sentences // 2, self.sentences - self.sentences // 2), strict=True))
        firsts = [row for name in classes for row in [r for r in rows if r["label"] == name][: sizes[name]]]
        return Classification.from_records(
            firsts,
            text="text",
            label="label",
            prompt=IT_WAS,
            labels=dict(zip(classes, WORDS, strict=True)),
            dev=Data.of(self.data / "dev.csv"),
            test=Data.of(self.data / "test.csv"),
        )

    def text_task(self) -> Task:
        """The windows of running text."""
        if self.text is None:
            return prose(self.windows, WINDOW)
        return LanguageModelling.from_text(
            self.text, window=WINDOW, search_size=self.windows, dev_size=32, test_size=32
        )

    def problem(self, task: Task, layers: int, dtype: str = "float32", evaluator: str = "auto") -> Problem:
        """LoRA-XS on q and v of the last layers."""
        return Problem(self.model, task, LoRAXS(rank=RANK, layers=layers), dtype=dtype, evaluator=evaluator)


def describe(problem: Problem, source: Path | None, embedded: str) -> str:
    """The data of a problem in one line: which, how many tokens with and without padding, and how long."""
    lengths = [s.size for s in problem.batch("search").sequences]
    limit = load_model(problem.spec.model).max_length
    where = str(source) if source is not None else f"embedded {embedded}"
    return (
        f"{problem.spec.model}, {where}: {problem.batch('search').examples} examples, {sum(lengths):,} tokens, "
        f"{len(lengths) * max(lengths):,} in one padded batch, the longest {max(lengths)} of at most {limit:,}"
    )
