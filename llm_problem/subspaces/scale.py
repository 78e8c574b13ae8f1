"""How large a step one unit of x is, where a subspace is not told.

A simple rule: at x ~ N(0, I) each moved weight W changes by ‖ΔW‖ = c √(L / k) ‖W‖ in root mean square (Frobenius)
norm, where k weights are moved together in a model of L layers. 1/√k, because independent changes add up in squares;
√L, because one layer of a deep model is a smaller part of what the head reads. On SmolLM2-135M (30 layers; LoRA-XS and
random subspaces on the query and value projections of the last 1 to 4 layers) a unit then moves the predictions by
about 0.1 to 0.4 nats of KL divergence to the pretrained model.

Keys and values of a prompt that x moves in some layers are two such weights a layer; the embeddings E0 of a prompt
change by ‖ΔE‖ = ‖E0‖. There (prompts of 2 and 13 tokens, d = 32, the last 1 to 30 layers) that is about 0.05 to 0.4
nats.
"""

from __future__ import annotations

import math

LOW_RANK_STEP = 0.4  # c, for changes of chosen weights
PROMPT_STEP = 1.0  # ‖ΔE‖/‖E0‖, for the embeddings of a prompt
FULL_STEP = 0.05  # root mean square change of a parameter over that of the parameters, where all of them move


def relative_step(moved: int, layers: int) -> float:
    """‖ΔW‖/‖W‖ of each weight where `moved` weights are moved together in a model of `layers` layers."""
    return LOW_RANK_STEP * math.sqrt(layers / moved)
