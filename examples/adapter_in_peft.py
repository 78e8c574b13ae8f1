"""Search without gradients, export the point found, and go on with transformers and PEFT alone.

Three subspaces are searched. Which one's point is exported is decided on the dev split; the test split is read for that
point alone, at the end.

python examples/adapter_in_peft.py                # SmolLM2-135M, about a minute on two quiet cores
python examples/adapter_in_peft.py tiny-gpt2      # a bundled model that needs no download
"""

import csv
import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import llm_problem as lp
from llm_problem.statistics import Scored, compare
from llm_problem_adapters import minimize

DATA = Path(lp.__file__).parent / "data" / "sentiment.csv"
LABELS = {"negative": " negative", "positive": " positive"}
PROMPT = "Review: {text}\nSentiment:"
SEARCH = {"optimizer": "cma", "budget": 300, "seed": 1}
SUBSPACES = {
    "LoRA-XS on q and v": lp.subspaces.LoRAXS(rank=4, layers=1),
    "LoRA-XS on q, v, o and down": lp.subspaces.LoRAXS(
        rank=4, layers=1, modules=("q_proj", "v_proj", "o_proj", "down_proj")
    ),
    "scales of features": lp.subspaces.Scales(layers=1),
}

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
task = lp.tasks.Classification.from_csv(
    DATA, text="text", label="label", prompt=PROMPT, labels=LABELS, split="split", search_size=128
)
found = {}
for name, subspace in SUBSPACES.items():
    problem = lp.Problem(model, task, subspace)
    result = minimize(problem, **SEARCH)
    dev = problem.metrics(problem.x0, "dev"), problem.metrics(result.x, "dev")
    found[name] = problem, result.x, dev
    print(f"{name}: search loss {problem(problem.x0):.3f} -> {result.loss:.3f}, "
          f"dev loss {dev[0]['loss']:.3f} -> {dev[1]['loss']:.3f}", flush=True)  # fmt: skip
chosen = min(found, key=lambda name: found[name][2][1]["loss"])
problem, x, dev = found[chosen]
print(f"lowest on dev, and exported: {chosen}")

with tempfile.TemporaryDirectory() as scratch:
    folder = Path(scratch) / "adapter"
    problem.save_adapter(x, folder, notes=SEARCH, held_out={"dev": dev})

    # From here on it is transformers and PEFT alone.
    base = peft.PeftConfig.from_pretrained(folder).base_model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(base)
    before = AutoModelForCausalLM.from_pretrained(base, dtype="float32").eval()
    after = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    after = peft.PeftModel.from_pretrained(after, folder).eval()


@functools.lru_cache(maxsize=1)  # label words of one token are all read after the same text
def log_probs(model, ids: tuple[int, ...]) -> torch.Tensor:
    """Of every next token, (tokens, vocabulary)."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def loss(model, text: str, label: str) -> float:
    """Cross-entropy of the label words, in nats."""
    prompt, scores = tokenizer(PROMPT.format(text=text)).input_ids, []
    for word in LABELS.values():
        ids = tokenizer(word, add_special_tokens=False).input_ids
        rows = log_probs(model, (*prompt, *ids[:-1]))[len(prompt) - 1 :]
        scores.append(rows[range(len(ids)), ids].sum())
    return float(-torch.stack(scores).log_softmax(0)[list(LABELS).index(label)])


with open(DATA, newline="", encoding="utf-8") as file:
    test = [row for row in csv.DictReader(file) if row["split"] == "test"]
losses = np.array([[loss(model, row["text"], row["label"]) for row in test] for model in (before, after)])  # (2, N)
accuracy = (losses < np.log(2)).mean(axis=1)
change = compare(Scored({"loss": losses[0]}), Scored({"loss": losses[1]}))["loss"]
print(f"test, {len(test)} sentences: loss {losses[0].mean():.3f} -> {losses[1].mean():.3f}, "
      f"accuracy {accuracy[0]:.3f} -> {accuracy[1]:.3f}")  # fmt: skip
print(f"gain {-change.value:.4f} nats a sentence, 95% of paired bootstrap means in "
      f"[{-change.high:.4f}, {-change.low:.4f}]: {change.verdict}")  # fmt: skip
print(f"the problem itself says {problem.metrics(x, 'test')['loss']:.6f}, PEFT {losses[1].mean():.6f}")
