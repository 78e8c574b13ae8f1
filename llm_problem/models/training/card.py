"""The card (README.md) of a bundled model."""

import platform
from dataclasses import dataclass
from importlib.metadata import version

from transformers import PreTrainedModel

from .corpus import PARTS, Corpus
from .evaluation import MASKS_PER_WINDOW, Score
from .recipes import Recipe
from .tokens import Streams


@dataclass(frozen=True)
class Outcome:
    """What a training gave: the recipe, the figures, and the processor time of the training in minutes."""

    recipe: Recipe
    corpus: Corpus
    streams: Streams
    score: Score
    minutes: float
    command: str


_CARD = """\
---
language: en
license: mit
library_name: transformers
pipeline_tag: {pipeline}
---

# {title}

A tiny {kind} of the {architecture} family, trained from scratch. It is meant for research on
optimisation over language models, where each evaluation must be cheap; it is no use as a source of facts or
of advice.

## Architecture

`{model_class}`: {layers} layers, {heads} heads, width {width}, at most {length} tokens, {parameters:,}
parameters (input and output embeddings are shared), float32. The tokeniser is byte-level BPE with
{vocabulary:,} tokens{casing}, learnt from the training text.

## Data

English paragraphs from the documentation strings of the standard library of {python}, parsed from
its source files. Doctests, tables and code samples are left out, and each paragraph is kept once only. The
top-level modules are split by a hash of their names:

| part | modules | documents | tokens |
| --- | --- | --- | --- |
{parts}

Training used the first part, early stopping the second. Held-out modules: {heldout}.

## Training

```
{command}
```

{steps:,} steps of {batch} windows of {length} tokens, AdamW with a highest learning rate of {rate:g}, weight
decay {decay:g}, dropout {dropout:g}, seed {seed}, {threads} thread{plural}{masks}; about {minutes:.0f} minutes of
processor time. With the same machine and versions the script gives the same bytes again; they were here
{versions}.

## Held-out figures

On the held-out modules, in nats per token (mean negative natural logarithm of the probability of the true
token; less is better), over {tokens:,} tokens:

| model | nats per token |
| --- | --- |
| this model | {model:.3f} |
| {baseline_name} | {baseline:.3f} |
| difference | {gain:.3f} (standard error {error:.3f}) |

{protocol}

## Licence

The weights are under the MIT licence, as the project is. They were trained on documentation strings of
CPython's standard library, which are under the Python Software Foundation Licence Version 2; this folder
holds none of that text beyond the short pieces that are tokens of the vocabulary.
"""

_GPT2_PROTOCOL = """\
The baseline is an interpolated modified Kneser-Ney bigram model over the same tokens (Kneser and Ney 1995;
Chen and Goodman 1999), its discounts tuned on the development part and its counts taken from the training
and development parts. Both predict every token but the first of consecutive windows of {length} tokens."""

_BERT_PROTOCOL = """\
The baseline predicts a masked token from both its true neighbours, over the same tokens: discounted counts
of the three together, interpolated with a product of powers of Kneser-Ney models of p(t | left),
p(right | t), p(t | right) and p(t), its exponents and discounts tuned on the development part and its counts
taken from the training and development parts. Each sequence has one masked token, so that both neighbours
(and the rest of the {length} tokens) are visible to this model; {masks} places in each consecutive window,
drawn with a fixed seed, are tried one at a time."""


def card(outcome: Outcome, model: PreTrainedModel) -> str:
    """The text of the card."""
    recipe, score = outcome.recipe, outcome.score
    gpt2 = recipe.family == "gpt2"
    masks = f", {recipe.masks_first:.0%} of the tokens masked at first, falling to {recipe.masks_last:.0%}"
    packages = ("torch", "transformers", "tokenizers", "numpy")
    protocol = _GPT2_PROTOCOL if gpt2 else _BERT_PROTOCOL
    return _CARD.format(
        **{name: getattr(recipe, name) for name in recipe.__dataclass_fields__},
        **{name: getattr(score, name) for name in ("tokens", "model", "baseline", "gain", "error")},
        pipeline="text-generation" if gpt2 else "fill-mask",
        title="tiny-gpt2" if gpt2 else "tiny-bert",
        kind="causal language model" if gpt2 else "masked language model",
        architecture="GPT-2" if gpt2 else "BERT",
        model_class=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        casing="" if gpt2 else ", all lower-case",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        parts="\n".join(_part_rows(outcome)),
        heldout=", ".join(f"`{module}`" for module in outcome.corpus.modules("heldout")),
        command=outcome.command,
        plural="" if recipe.threads == 1 else "s",
        minutes=outcome.minutes,
        versions=", ".join(f"{name} {version(name)}" for name in packages),
        masks="" if gpt2 else masks,
        baseline_name="Kneser-Ney bigram" if gpt2 else "both-neighbours model",
        protocol=protocol.format(length=recipe.length, masks=MASKS_PER_WINDOW),
    )


def _part_rows(outcome: Outcome) -> list[str]:
    names = ("training", "development", "held out")
    rows = []
    for part, name in zip(PARTS, names, strict=True):
        modules = len(outcome.corpus.modules(part))
        documents, tokens = len(getattr(outcome.corpus, part)), len(getattr(outcome.streams, part))
        rows.append(f"| {name} | {modules} | {documents:,} | {tokens:,} |")
    return rows
