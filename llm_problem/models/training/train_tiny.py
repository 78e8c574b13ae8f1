"""Train a bundled model: `python -m llm_problem.models.training.train_tiny --family gpt2|bert --out DIR`.

Gathers the text, learns a vocabulary, trains, compares the result on held-out modules with its baseline, and
writes DIR, which must not exist yet, with the weights, the tokeniser and a card.
"""

import argparse
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from llm_problem.new_folder import new_folder, require_new

from .card import Outcome, card
from .corpus import gather
from .evaluation import score
from .folder import folder_bytes
from .loop import train
from .recipes import RECIPES, Recipe, without_dropout
from .tokenisers import Family, train_tokeniser
from .tokens import streams_of

MODULE = "llm_problem.models.training.train_tiny"


def load(family: Family, folder: Path) -> PreTrainedModel:
    """The model in `folder` as its users load it: float32, without dropout, from files on disk only."""
    loader = AutoModelForCausalLM if family == "gpt2" else AutoModelForMaskedLM
    return loader.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def train_and_write(recipe: Recipe, target: Path, command: str, most_windows: int | None = None) -> Outcome:
    """Train by `recipe` and write the folder `target`; raises `FileExistsError` if there is one.

    `command` is quoted on the card.  `most_windows` limits the held-out windows that are looked at, for
    trying out.
    """
    require_new(target)
    started = time.process_time()
    corpus = gather()
    tokeniser = train_tokeniser(recipe.family, corpus.texts("train"), recipe.vocabulary, recipe.length)
    streams = streams_of(corpus, recipe.family, tokeniser)
    print(f"{len(streams.train):,} training tokens, {len(streams.heldout):,} held out", flush=True)
    model = train(recipe, tokeniser, streams)
    minutes = (time.process_time() - started) / 60
    without_dropout(model)
    with new_folder(target) as draft:
        model.save_pretrained(draft)
        tokeniser.save_pretrained(draft)
        # What is judged is what was stored, read as a user reads it.
        stored = load(recipe.family, draft)
        found = score(recipe.family, stored, tokeniser, streams, recipe.length, most_windows)
        outcome = Outcome(recipe, corpus, streams, found, minutes, command)
        (draft / "README.md").write_text(card(outcome, stored), encoding="utf-8")
    return outcome


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Train a tiny language model.")
    made.add_argument("--family", choices=tuple(RECIPES), required=True)
    made.add_argument("--out", type=Path, required=True, help="folder to make; must not exist")
    made.add_argument("--steps", type=int, help="train for fewer or more steps than the recipe says")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says and print the held-out figures, in nats per token."""
    given = parser().parse_args(arguments)
    recipe = RECIPES[given.family]
    # The card shows the folder's name only, since where it lies is the reader's own matter.
    words = ["python", "-m", MODULE, "--family", given.family, "--out", given.out.name]
    if given.steps is not None:
        recipe = recipe.shortened(given.steps)
        words += ["--steps", str(given.steps)]
    outcome = train_and_write(recipe, given.out, shlex.join(words))
    found = outcome.score
    print(
        f"held out, over {found.tokens:,} tokens: {found.model:.3f} nats/token, "
        f"baseline {found.baseline:.3f}, better by {found.gain:.3f} (standard error {found.error:.3f})"
    )
    print(f"{given.out}: {folder_bytes(given.out):,} bytes, {outcome.minutes:.1f} minutes of processor time")


if __name__ == "__main__":
    main()
