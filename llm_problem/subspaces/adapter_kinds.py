"""Kinds of adapter beside LoRA that are a fixed change of weights, as PEFT stores them.

VERA (Kopiczko, Blankevoort & Asano 2023, arXiv:2310.11454): ΔW = diag(b) B diag(d) A with A and B of all weights; a
smaller weight takes the first rows of B and the first columns of A.
IA3 (Liu et al. 2022, arXiv:2205.05638): l ∘ y at outputs, the bias too, or W (l ∘ x) at inputs.
LN_TUNING (Zhao et al. 2023, arXiv:2312.11420): norms, stored whole.
"""

from __future__ import annotations

import re

from llm_problem.subspaces.adapter_changes import AdapterChanges, Stored, some

_VERA = re.compile(r"(?P<module>.+)\.vera_lambda_(?P<part>[bd])(?:\.[^.]+)?")
_VERA_SHARED = re.compile(r"(?:.*\.)?vera_(?P<side>[AB])(?:\.[^.]+)?")
_IA3 = re.compile(r"(?P<module>.+)\.ia3_(?P<part>l)(?:\.[^.]+)?")
_LN = re.compile(r"(?P<module>.+)\.ln_tuning_layers(?:\.[^.]+)??\.(?P<part>weight|bias)")


def read_vera(stored: Stored) -> AdapterChanges:
    """The changes of a VERA adapter.

    Raises:
        ValueError: the matrices are not in the file, or something else is.
    """
    neutral = ("r", "vera_dropout", "d_initial", "projection_prng_key", "save_projection", "init_weights")
    stored.require_plain("a plain VeRA", neutral)
    shared, rest = {}, {}
    for key, tensor in stored.tensors.items():
        if match := _VERA_SHARED.fullmatch(key):
            shared[match["side"]] = tensor.float()
        else:
            rest[key] = tensor
    if set(shared) != {"A", "B"}:
        raise ValueError(
            f"{stored.folder} has no vera_A and vera_B, which PEFT would draw anew: save it with save_projection=True"
        )
    vectors, changes = Stored(stored.folder, stored.config, rest).split(_VERA, "a VeRA of weight matrices")
    A, B = shared["A"], shared["B"]  # (r, largest in), (largest out, r)
    for module, vector in vectors.items():
        if set(vector) != {"b", "d"}:
            raise ValueError(f"{stored.folder} has only one of vera_lambda_b and vera_lambda_d for {module}")
        b, d = vector["b"], vector["d"]  # (out,), (r,)
        if len(b) > len(B) or not len(d) == len(A) == B.shape[1]:
            raise ValueError(
                f"{stored.folder}: the vectors of {module} are of {len(b)} and {len(d)} numbers, which do not fit "
                f"vera_B {tuple(B.shape)} and vera_A {tuple(A.shape)}"
            )
        changes.factors[module] = b[:, None] * B[: len(b)], d[:, None] * A
    changes.sliced = True
    return changes


def read_ia3(stored: Stored) -> AdapterChanges:
    """The changes of an IA3 adapter.

    Raises:
        ValueError: something else in the file.
    """
    stored.require_plain("a plain IA3", ("feedforward_modules", "init_ia3_weights"))
    scales, changes = stored.split(_IA3, "an IA3 of weight matrices")
    changes.scales = {module: parts["l"] for module, parts in scales.items()}
    if strange := [name for name, scale in changes.scales.items() if scale.ndim != 2 or 1 not in scale.shape]:
        raise ValueError(f"{stored.folder} has an ia3_l that is no (out, 1) or (1, in), for {some(strange)}")
    return changes


def read_ln_tuning(stored: Stored) -> AdapterChanges:
    """The changes of an LN_TUNING adapter.

    Raises:
        ValueError: something else in the file.
    """
    stored.require_plain("a plain LN tuning", ())
    norms, changes = stored.split(_LN, "norms")
    changes.whole |= norms
    return changes
