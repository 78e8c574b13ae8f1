"""The training loop, the same for both families and deterministic on one machine.

AdamW (Loshchilov and Hutter 2019) with linear warm-up and cosine decay; the weights that do best on the
development part are kept.
"""

import copy
import math
import time

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .evaluation import causal_nats, masked_nats, single_masks, whole
from .recipes import Recipe, new_model
from .tokens import Streams, masked, random_windows, windows, wrapped


def train(recipe: Recipe, tokeniser: PreTrainedTokenizerBase, streams: Streams) -> PreTrainedModel:
    """A trained model, with the weights that did best on the development part; prints its progress.

    Sets torch's number of threads, its global seed and its use of deterministic algorithms.
    """
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True)
    generator = np.random.default_rng(recipe.seed)
    model = new_model(recipe, tokeniser, streams.train)
    optimiser = torch.optim.AdamW(_groups(model, recipe.decay), lr=recipe.rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_factor(step, recipe))
    best, weights, started = math.inf, model.state_dict(), time.monotonic()
    for step in range(1, recipe.steps + 1):
        model.train()
        loss = _loss(model, recipe, tokeniser, streams, generator, mask_share(step, recipe))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % recipe.every == 0 or step == recipe.steps:
            found = dev_nats(model, recipe, tokeniser, streams)
            if found < best:
                best, weights = found, copy.deepcopy(model.state_dict())
            spent = (time.monotonic() - started) / 60
            print(f"step {step:5d}: loss {loss.item():.3f}, dev {found:.3f}, {spent:.1f} min", flush=True)
    model.load_state_dict(weights)
    return model


def rate_factor(step: int, recipe: Recipe) -> float:
    """Share of the highest learning rate to use at `step`, counted from zero."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def mask_share(step: int, recipe: Recipe) -> float:
    """Share of tokens to mask at `step`: falls linearly from the recipe's first to its last.

    Many masks give many gradients from each sequence while the model learns frequent patterns; few, later,
    teach it to use the whole of the context (Wettig et al. 2023 find 40% better than 15% for much training).
    """
    done = step / recipe.steps
    return recipe.masks_first + done * (recipe.masks_last - recipe.masks_first)


def dev_nats(model: PreTrainedModel, recipe: Recipe, tokeniser: PreTrainedTokenizerBase, streams: Streams) -> float:
    """Nats per token on the development part, measured as the held-out part is, on fewer windows."""
    if recipe.family == "gpt2":
        return float(causal_nats(model, windows(streams.dev, recipe.length)).mean())
    masks = single_masks(streams.dev, tokeniser, recipe.length, most_windows=64)
    return float(masked_nats(model, masks).mean())


def _groups(model: PreTrainedModel, decay: float) -> list[dict]:
    """Parameters with weight decay (matrices) and without (biases and layer norms)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def _loss(
    model: PreTrainedModel,
    recipe: Recipe,
    tokeniser: PreTrainedTokenizerBase,
    streams: Streams,
    generator: np.random.Generator,
    share: float,
) -> torch.Tensor:
    """Mean nats per predicted token of one random batch of the training part."""
    if recipe.family == "gpt2":
        rows = random_windows(streams.train, recipe.length, recipe.batch, generator)
        logits = model(**whole(rows)).logits[:, :-1]
        targets = torch.from_numpy(rows)[:, 1:]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    rows = random_windows(streams.train, recipe.length - 2, recipe.batch, generator)
    rows = wrapped(rows, tokeniser.cls_token_id, tokeniser.sep_token_id)
    inputs, labels = masked(rows, tokeniser, generator, share)
    hidden = model.bert(**whole(inputs)).last_hidden_state
    # Only the chosen tokens count, so only they go through the head: a quarter of the time is saved.
    chosen = torch.from_numpy(labels >= 0)
    return torch.nn.functional.cross_entropy(model.cls(hidden[chosen]), torch.from_numpy(labels)[chosen])
