"""From a search to an adapter that plain PEFT loads: nothing of this project is needed to use what it found.

python examples/adapter_in_peft.py                # SmolLM2-135M
python examples/adapter_in_peft.py tiny-gpt2      # a bundled model that needs no download
"""

import csv
import math
import sys
import tempfile
from pathlib import Path

import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import llm_problem as lp
from llm_problem_adapters import minimize

DATA = Path(lp.__file__).parent / "data" / "sentiment.csv"
LABELS = {"negative": " negative", "positive": " positive"}
PROMPT = "Review: {text}\nSentiment:"

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
task = lp.tasks.Classification.from_csv(
    DATA, text="text", label="label", prompt=PROMPT, labels=LABELS, split="split", search_size=128
)
subspace = lp.subspaces.LoRAXS(rank=4, layers=1, modules=("q_proj", "v_proj", "o_proj", "down_proj"))
problem = lp.Problem(model, task, subspace)
result = minimize(problem, "cma", budget=400, seed=1)
print(result)

with tempfile.TemporaryDirectory() as scratch:
    folder = Path(scratch) / "adapter"
    problem.save_adapter(result.x, folder, notes={"optimizer": "cma", "budget": 400, "seed": 1})
    problem.close()

    # From here on it is transformers and PEFT alone.
    base = peft.PeftConfig.from_pretrained(folder).base_model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(base)
    before = AutoModelForCausalLM.from_pretrained(base, dtype="float32").eval()
    adapted = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    after = peft.PeftModel.from_pretrained(adapted, folder).eval()


def probability(model, text: str, label: str) -> float:
    """Of the right one of the two label words, as the next token."""
    ids = tokenizer(PROMPT.format(text=text), return_tensors="pt").input_ids
    words = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in LABELS.values()]
    with torch.no_grad():
        scores = model(input_ids=ids).logits[0, -1, words].softmax(-1)
    return float(scores[list(LABELS).index(label)])


with open(DATA, newline="", encoding="utf-8") as file:
    held_out = [row for row in csv.DictReader(file) if row["split"] == "test"][::3]
for name, model in (("pretrained", before), ("adapter", after)):
    right = [probability(model, row["text"], row["label"]) for row in held_out]
    loss, accuracy = sum(-math.log(p) for p in right) / len(right), sum(p > 0.5 for p in right) / len(right)
    print(f"{name:>10}: held-out loss {loss:.3f}, accuracy {accuracy:.3f} on {len(right)} sentences")
    print(f"            {held_out[0]['text']!r} is {held_out[0]['label']}: probability {right[0]:.2f}")
