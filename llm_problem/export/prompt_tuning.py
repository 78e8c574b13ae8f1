"""Prompt tuning (Lester, Al-Rfou & Constant 2021, arXiv:2104.08691): embeddings that stand before every text.

They are a real text's own embeddings with the point's offsets added. PEFT gives the model embeddings instead of tokens,
so a model that does more with tokens than looking them up (Marian scales them) cannot have such an adapter.
"""

from __future__ import annotations

import torch

from llm_problem.export.point import Adapter, NoAdapterError, Point, as_stored
from llm_problem.models.loading import LoadedModel
from llm_problem.models.prompts import prompt_embeddings, reading_embeddings
from llm_problem.subspaces.deltas import EmbeddingDelta

_TOLERANCE = 1e-4  # between logits that are computed from tokens and from their embeddings


def prompt_tuning(point: Point) -> Adapter:
    """The adapter of a point that moves a prompt's embeddings.

    Raises:
        NoAdapterError: the model reads tokens otherwise than their embeddings.
    """
    own = prompt_embeddings(point.loaded, point.prompt)  # (p, hidden)
    _require_plain_embeddings(point.loaded, point.prompt)
    moved = own.float()
    for delta in point.deltas:
        assert isinstance(delta, EmbeddingDelta)
        moved = moved + delta.value[0].float()
    config = {
        "num_virtual_tokens": len(point.prompt),
        "token_dim": moved.shape[1],
        "num_transformer_submodules": 1,  # an encoder-decoder's prompt is read by its encoder alone
        "num_attention_heads": point.loaded.model.config.num_attention_heads,
        "num_layers": point.loaded.layers,
        "prompt_tuning_init": "RANDOM",
    }
    return Adapter("PROMPT_TUNING", config, {"prompt_embeddings": as_stored(moved)})


def _require_plain_embeddings(loaded: LoadedModel, prompt: tuple[int, ...]) -> None:
    """Tokens and their embeddings give the same logits."""
    ids = torch.tensor([prompt], device=loaded.model.device)
    decoder = {"decoder_input_ids": ids.new_tensor([[loaded.decoder_start]])} if loaded.kind == "seq2seq" else {}
    with loaded.lock, torch.no_grad():
        embeddings = reading_embeddings(loaded.model)(ids)
        from_tokens = loaded.model(input_ids=ids, **decoder).logits
        try:
            from_embeddings = loaded.model(inputs_embeds=embeddings, **decoder).logits
        except (TypeError, ValueError) as error:
            raise NoAdapterError(f"{loaded.name} takes no embeddings in place of tokens ({error})") from error
    apart = float((from_tokens.float() - from_embeddings.float()).abs().max())
    if not apart <= _TOLERANCE * max(1.0, float(from_tokens.float().abs().max())):
        raise NoAdapterError(
            f"{loaded.name} does more with tokens than looking their embeddings up, which PEFT's virtual tokens go "
            f"without (logits {apart:.2g} apart)"
        )
