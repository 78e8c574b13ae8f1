"""The named problems, as data.

Every id ends in its dimension and version; a test holds that the dimension is true.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from llm_problem.spec import ProblemSpec
from llm_problem.subspaces import (
    Fastfood,
    FullVector,
    LoRA,
    LoRAXS,
    NormsAndBiases,
    Prefix,
    RandomSubspace,
    Scales,
    SingularValues,
    SoftPrompt,
    SparseProjection,
    Subspace,
    TinyLoRA,
    VeRA,
)
from llm_problem.tasks import Classification, Data, LanguageModelling, MultipleChoice, Task

# A prompt that SmolLM2-135M reads well as it is, so that what a search adds is real; and one that it does not.
REVIEW = "Review: {text}\nSentiment:"
IT_WAS = "{text} It was"


def sentiment(search_size: int, prompt: str = REVIEW, labels: tuple[str, str] = (" negative", " positive")) -> Task:
    """The embedded sentiment sentences; dev and test whole."""
    return Classification(
        Data.of("embedded:sentiment"),
        text="text",
        label="label",
        prompt=prompt,
        labels={"negative": labels[0], "positive": labels[1]},
        split="split",
        search_size=search_size,
    )


def prose(search_size: int, window: int = 32) -> Task:
    """The embedded essay in windows of tokens."""
    return LanguageModelling(
        Data.of("embedded:prose"), window=window, search_size=search_size, dev_size=24, test_size=24
    )


def _bad_good(search_size: int) -> Task:
    return sentiment(search_size, "{text} It was{label}.", (" bad", " good"))


def agreement(search_size: int, prompt: str = "{text}") -> Task:
    """Whether "is" or "are" follows a subject and a noun between them, in the embedded sentences."""
    return Classification(
        Data.of("embedded:agreement"),
        text="text",
        label="label",
        prompt=prompt,
        labels={"singular": " is", "plural": " are"},
        split="split",
        search_size=search_size,
    )


def continuation(search_size: int) -> Task:
    """Which of four beginnings is the next sentence's, in the embedded essay."""
    return MultipleChoice(
        Data.of("embedded:continuations"),
        prompt="{text}",
        choices=("a", "b", "c", "d"),
        answer="answer",
        split="split",
        search_size=search_size,
    )


_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


# As `python -m llm_problem.suites.units` measured them, in instance 0.
_UNITS: dict[str, tuple[float, ...]] = {
    "smollm2-135m-agreement-scales-d384-v1": (2.7,),
    "smollm2-135m-agreement-singular-values-d64-v1": (3.1,),
    "smollm2-135m-continuation-prefix-d32-v1": (4.0,),
    "smollm2-135m-prose-lora-xs-d64-v1": (1.5,),
    "smollm2-135m-prose-random-d100-v1": (0.85,),
    "smollm2-135m-sentiment-lora-xs-d128-v1": (2.4,),
    "smollm2-135m-sentiment-lora-xs-d256-v1": (2.0,),
    "smollm2-135m-sentiment-lora-xs-d32-v1": (2.3,),
    "smollm2-135m-sentiment-lora-xs-d64-v1": (0.31,),
    "smollm2-135m-sentiment-lora-xs-d512-v1": (1.6,),
    "smollm2-135m-sentiment-random-d64-v1": (1.5,),
    "tiny-bert-agreement-random-d10-v1": (2.5,),
    "tiny-bert-agreement-vera-d48-v1": (3.3,),
    "tiny-bert-prose-lora-xs-d32-v1": (1.4,),
    "tiny-bert-prose-random-d32-v1": (1.6,),
    "tiny-bert-sentiment-fastfood-d256-v1": (3.0,),
    "tiny-bert-sentiment-lora-xs-d128-v1": (1.6,),
    "tiny-gpt2-agreement-scales-d192-v1": (8.8,),
    "tiny-gpt2-agreement-tiny-lora-d8-v1": (3.6,),
    "tiny-gpt2-continuation-prefix-d24-v1": (12.0,),
    "tiny-gpt2-continuation-sparse-projection-d100-v1": (9.0,),
    "tiny-gpt2-prose-full-d334464-v1": (1.7,),
    "tiny-gpt2-prose-lora-xs-d32-v1": (2.8,),
    "tiny-gpt2-prose-lora-xs-d512-v1": (0.91,),
    "tiny-gpt2-prose-norms-d384-v1": (2.4,),
    "tiny-gpt2-prose-random-d64-v1": (0.94,),
    "tiny-gpt2-prose-soft-prompt-d16-v1": (0.84,),
    "tiny-gpt2-sentiment-lora-d960-v1": (12.0,),
    "tiny-gpt2-sentiment-lora-xs-d128-v1": (1.3,),
    "tiny-gpt2-sentiment-singular-values-d96-v1": (2.3,),
}


def _problems() -> dict[str, tuple[str, partial[Task], Subspace]]:
    """id → model, task (made when asked for, since it reads its data), subspace."""
    return {
        "tiny-gpt2-prose-lora-xs-d32-v1": ("tiny-gpt2", partial(prose, 8), LoRAXS(4, layers=1)),
        "tiny-gpt2-prose-lora-xs-d512-v1": ("tiny-gpt2", partial(prose, 8), LoRAXS(8, 2, _ATTENTION)),
        "tiny-gpt2-prose-random-d64-v1": ("tiny-gpt2", partial(prose, 8), RandomSubspace(64, layers=2)),
        "tiny-gpt2-prose-full-d334464-v1": ("tiny-gpt2", partial(prose, 8), FullVector()),
        "tiny-gpt2-sentiment-lora-xs-d128-v1": (
            "tiny-gpt2",
            partial(sentiment, 12),
            LoRAXS(4, layers=2, modules=_ATTENTION),
        ),
        "tiny-bert-prose-lora-xs-d32-v1": ("tiny-bert", partial(prose, 32), LoRAXS(4, layers=1)),
        "tiny-bert-prose-random-d32-v1": ("tiny-bert", partial(prose, 16), RandomSubspace(32, layers=1)),
        "tiny-bert-sentiment-lora-xs-d128-v1": (
            "tiny-bert",
            partial(_bad_good, 8),
            LoRAXS(4, layers=2, modules=_ATTENTION),
        ),
        **_more_tiny(),
        "smollm2-135m-sentiment-lora-xs-d32-v1": ("smollm2-135m", partial(sentiment, 32), LoRAXS(4, layers=1)),
        "smollm2-135m-sentiment-lora-xs-d64-v1": (
            "smollm2-135m",
            partial(sentiment, 240),
            LoRAXS(4, layers=1, modules=("q_proj", "v_proj", "o_proj", "down_proj")),
        ),
        "smollm2-135m-sentiment-lora-xs-d128-v1": ("smollm2-135m", partial(sentiment, 48), LoRAXS(8, layers=1)),
        "smollm2-135m-sentiment-lora-xs-d256-v1": ("smollm2-135m", partial(sentiment, 32), LoRAXS(8, layers=2)),
        "smollm2-135m-sentiment-random-d64-v1": ("smollm2-135m", partial(sentiment, 32), RandomSubspace(64, layers=2)),
        "smollm2-135m-prose-lora-xs-d64-v1": ("smollm2-135m", partial(prose, 16, 64), LoRAXS(4, layers=2)),
        **_more_real(),
    }


def _more_tiny() -> dict[str, tuple[str, partial[Task], Subspace]]:
    gpt2, bert = "tiny-gpt2", "tiny-bert"
    bert_agrees = partial(agreement, 32, "{text}{label} here.")
    return {
        "tiny-gpt2-prose-soft-prompt-d16-v1": (gpt2, partial(prose, 8), SoftPrompt("The next lines:", 16)),
        "tiny-gpt2-prose-norms-d384-v1": (gpt2, partial(prose, 8), NormsAndBiases(layers=1, biases=False)),
        "tiny-gpt2-sentiment-singular-values-d96-v1": (
            gpt2,
            partial(sentiment, 12),
            SingularValues(12, layers=2, modules=_ATTENTION),
        ),
        "tiny-gpt2-sentiment-lora-d960-v1": (gpt2, partial(sentiment, 24), LoRA(5, layers=1)),
        "tiny-gpt2-agreement-tiny-lora-d8-v1": (gpt2, partial(agreement, 32), TinyLoRA(8, rank=4, layers=2)),
        "tiny-gpt2-agreement-scales-d192-v1": (
            gpt2,
            partial(agreement, 32),
            Scales(layers=1, modules=("k_proj", "v_proj")),
        ),
        "tiny-gpt2-continuation-prefix-d24-v1": (gpt2, partial(continuation, 8), Prefix("And so", 24, layers=1)),
        "tiny-gpt2-continuation-sparse-projection-d100-v1": (
            gpt2,
            partial(continuation, 8),
            SparseProjection(100, layers=1),
        ),
        "tiny-bert-sentiment-fastfood-d256-v1": (bert, partial(_bad_good, 12), Fastfood(256, layers=1)),
        "tiny-bert-agreement-vera-d48-v1": (bert, bert_agrees, VeRA(24, layers=1)),
        "tiny-bert-agreement-random-d10-v1": (bert, bert_agrees, RandomSubspace(10, layers=2)),
    }


def _more_real() -> dict[str, tuple[str, partial[Task], Subspace]]:
    smollm2 = "smollm2-135m"
    return {
        "smollm2-135m-sentiment-lora-xs-d512-v1": (smollm2, partial(sentiment, 16), LoRAXS(8, layers=4)),
        "smollm2-135m-agreement-singular-values-d64-v1": (
            smollm2,
            partial(agreement, 48),
            SingularValues(32, layers=1),
        ),
        "smollm2-135m-agreement-scales-d384-v1": (
            smollm2,
            partial(agreement, 48),
            Scales(layers=1, modules=("k_proj", "v_proj")),
        ),
        "smollm2-135m-prose-random-d100-v1": (smollm2, partial(prose, 8), RandomSubspace(100, layers=1)),
        "smollm2-135m-continuation-prefix-d32-v1": (smollm2, partial(continuation, 8), Prefix("And so", 32, layers=2)),
    }


def _spec(id: str, model: str, task: partial[Task], subspace: Subspace) -> ProblemSpec:
    return ProblemSpec(model, task(), subspace, units=_UNITS.get(id))


def models() -> dict[str, str]:
    """id → model of every problem of this file."""
    return {id: model for id, (model, _, _) in _problems().items()}


@cache
def problems() -> dict[str, Callable[[], ProblemSpec]]:
    """What makes the description of each problem of this file, by id."""
    return {id: partial(_spec, id, *parts) for id, parts in _problems().items()}
