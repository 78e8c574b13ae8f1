"""Every setting of the two trainings, and the untrained models."""

from dataclasses import dataclass, replace

from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .bert_start import look_at_neighbours, start_at_frequencies
from .tokenisers import Family
from .tokens import Ids


@dataclass(frozen=True)
class Recipe:
    """Settings of one training.

    Sizes are in tokens, `rate` is AdamW's highest learning rate, `warm_up` the number of steps in which it
    is reached; it then falls to zero along half a cosine.  The development part is looked at every `every`
    steps, and the best weights found there are kept.
    """

    family: Family
    vocabulary: int = 1024
    length: int = 128
    layers: int = 2
    width: int = 96
    heads: int = 3
    dropout: float = 0.0
    steps: int = 3000
    batch: int = 16
    rate: float = 4e-3
    warm_up: int = 100
    decay: float = 0.1
    masks_first: float = 0.4
    masks_last: float = 0.15
    every: int = 200
    seed: int = 1
    threads: int = 1

    def shortened(self, steps: int) -> "Recipe":
        """The same with `steps` steps only, for trying out; the schedule is squeezed into them."""
        warm_up = min(self.warm_up, max(1, steps // 5))
        return replace(self, steps=steps, warm_up=warm_up, every=min(self.every, steps))


RECIPES: dict[Family, Recipe] = {
    "gpt2": Recipe("gpt2"),
    "bert": Recipe("bert", vocabulary=512, steps=7000, rate=5e-3),
}


def new_model(recipe: Recipe, tokeniser: PreTrainedTokenizerBase, tokens: Ids) -> PreTrainedModel:
    """A model with fresh random weights, drawn from torch's global generator.

    `tokens` (n,) are those of the training part, whose frequencies BERT's output bias starts from.
    """
    if recipe.family == "gpt2":
        return _new_gpt2(recipe, tokeniser)
    model = _new_bert(recipe, tokeniser)
    start_at_frequencies(model, tokens)
    look_at_neighbours(model)
    return model


def _new_gpt2(recipe: Recipe, tokeniser: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=len(tokeniser),
        n_positions=recipe.length,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        embd_pdrop=recipe.dropout,
        attn_pdrop=recipe.dropout,
        resid_pdrop=recipe.dropout,
        bos_token_id=tokeniser.bos_token_id,
        eos_token_id=tokeniser.eos_token_id,
        pad_token_id=tokeniser.pad_token_id,
    )
    return GPT2LMHeadModel(config)


def _new_bert(recipe: Recipe, tokeniser: PreTrainedTokenizerBase) -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=len(tokeniser),
        max_position_embeddings=recipe.length,
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=4 * recipe.width,
        hidden_dropout_prob=recipe.dropout,
        attention_probs_dropout_prob=recipe.dropout,
        pad_token_id=tokeniser.pad_token_id,
        initializer_range=0.05,
    )
    return BertForMaskedLM(config)


def without_dropout(model: PreTrainedModel) -> None:
    """Set every dropout of the model's configuration to zero, as it is to be saved."""
    gpt2 = ("embd_pdrop", "attn_pdrop", "resid_pdrop", "summary_first_dropout")
    for name in (*gpt2, "hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
