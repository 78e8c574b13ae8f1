"""The section `generation`: texts of one candidate, written side by side, against stock `generate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from llm_problem.benchmarks.report import Report, Sheet
from llm_problem.benchmarks.settings import IT_WAS, RANK, Settings
from llm_problem.benchmarks.timing import interleave, spread
from llm_problem.evaluation import SerialEvaluator
from llm_problem.generation import Decoding
from llm_problem.generation.generator import TextGenerator
from llm_problem.models.loading import LoadedModel, load_model
from llm_problem.subspaces import LoRAXS
from llm_problem.tasks import Data
from llm_problem.tasks.batch import BatchBuilder, TokenBatch

TOKENS = 16
OURS, PADDED, LOOP = "ours", "generate, one padded batch", "generate, prompt by prompt"
Texts = list[tuple[int, ...]]


def generation(settings: Settings) -> Report:
    """Greedy texts after the sentences, for a new candidate each time."""
    model = load_model(settings.model)
    if model.kind != "causal":
        return Report([Sheet(f"Generation: {settings.model} is no causal model, left out", ())], {"rows": []})
    batch = prompts(model, settings.sentences)
    sheet = Sheet(
        f"Generation: {settings.model}, {batch.examples} prompts of {min(map(len, batch.sequences))} to "
        f"{max(map(len, batch.sequences))} tokens, {TOKENS} greedy tokens each; ms for all",
        ("searched layers", OURS, PADDED, LOOP, f"loop / {OURS}", f"padded / {OURS}", "texts that differ"),
    )
    rows: list[dict[str, Any]] = []
    for layers in settings.layer_counts(settings.focus()):
        evaluator = SerialEvaluator(model, LoRAXS(rank=RANK, layers=layers).bind(model, 0))
        seconds, differ = _measured(evaluator, batch, settings)
        times = [spread(1e3 * seconds[name]) for name in (OURS, PADDED, LOOP)]
        ratios = [spread(seconds[name] / seconds[OURS]) for name in (LOOP, PADDED)]
        sheet.rows.append((str(layers), *times, *ratios, f"{differ[LOOP]} loop, {differ[PADDED]} padded"))
        rows.append({"layers": layers, "seconds": seconds, "differ": differ})
    sheet.notes.append(f"of {batch.examples} texts in each turn, those that are not ours to the last token (ties)")
    return Report([sheet], {"tokens": TOKENS, "rows": rows})


def prompts(model: LoadedModel, count: int) -> TokenBatch:
    """The first embedded sentences as prompts."""
    builder = BatchBuilder()
    for row in Data.of("embedded:sentiment").rows(("text",))[:count]:
        ids = list(model.tokenizer(IT_WAS.format(text=row["text"]))["input_ids"])
        builder.start_example(0)
        builder.read(builder.add_sequence(ids), len(ids) - 1, 0, 0)
    return builder.build()


def _measured(
    evaluator: SerialEvaluator, batch: TokenBatch, settings: Settings
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Seconds (rounds,) by name, and how many texts are not ours, at most in a turn."""
    generator, found = TextGenerator(evaluator), {}
    x = np.zeros((1, evaluator.subspace.dimension))
    differ = {PADDED: 0, LOOP: 0}

    def ours() -> Texts:
        texts = generator.texts(x, batch, Decoding(TOKENS))
        assert texts is not None
        return [text.tokens for text in texts]

    def stock(write: Callable[[LoadedModel, TokenBatch], Texts]) -> Callable[[], Texts]:
        def run() -> Texts:
            with torch.inference_mode(), evaluator.changed(x):
                return write(evaluator.model, batch)

        return run

    def caller(name: str, write: Callable[[], Texts]) -> Callable[[int], None]:
        def call(repeat: int) -> None:
            found[name] = write()

        return call

    def turn(number: int, repeats: int) -> None:
        for name in differ:
            if name in found:
                pairs = zip(found[name], found[OURS], strict=True)
                differ[name] = max(differ[name], sum(a[: len(b)] != b for a, b in pairs))
        x[:] = np.random.default_rng(number).standard_normal(x.shape)

    writers = {OURS: ours, PADDED: stock(_padded), LOOP: stock(_one_by_one)}
    calls = {name: caller(name, write) for name, write in writers.items()}
    return interleave(calls, settings.rounds, settings.least, before_turn=turn), differ


def _one_by_one(model: LoadedModel, batch: TokenBatch) -> Texts:
    return [_generate(model, ids[None], np.ones((1, ids.size), dtype=np.int64))[0] for ids in batch.sequences]


def _padded(model: LoadedModel, batch: TokenBatch) -> Texts:
    width = max(map(len, batch.sequences))
    ids = np.stack([np.pad(s, (width - s.size, 0)) for s in batch.sequences])
    mask = np.stack([np.arange(width) >= width - s.size for s in batch.sequences]).astype(np.int64)
    return _generate(model, ids, mask)


def _generate(model: LoadedModel, ids: np.ndarray, mask: np.ndarray) -> Texts:
    given = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    pad = model.tokenizer.pad_token_id
    out = model.model.generate(**given, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0 if pad is None else pad)
    return [tuple(row) for row in out[:, ids.shape[1] :].tolist()]
