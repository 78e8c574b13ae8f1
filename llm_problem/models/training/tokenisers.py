"""The byte-level BPE vocabularies of the bundled models, learnt from training text only.

Merges are learnt by the `tokenizers` library, whose result for a given text is deterministic.
"""

from collections.abc import Sequence
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

Family = Literal["gpt2", "bert"]

END = "<|endoftext|>"
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokeniser(family: Family, texts: Sequence[str], vocabulary: int, longest: int) -> PreTrainedTokenizerBase:
    """A tokeniser learnt from `texts`.

    Parameters
    ----------
    family
        Decides the special tokens; BERT's text is in lower case, starts with [CLS] and ends with [SEP].
    texts
        Each a document.
    vocabulary
        Number of tokens, the special ones and the 256 bytes included.
    longest
        Most tokens the model takes in one sequence.
    """
    tokeniser = Tokenizer(models.BPE())
    # A space before the first word lets a word be the same token at the start of a text as elsewhere.
    tokeniser.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=family == "bert")
    if family == "bert":
        tokeniser.normalizer = normalizers.Lowercase()
    tokeniser.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_special_tokens(family),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokeniser.train_from_iterator(texts, trainer)
    if family == "bert":
        tokeniser.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(name, tokeniser.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokeniser,
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
        **_special_arguments(family),
    )


def _special_tokens(family: Family) -> list[str | AddedToken]:
    if family == "gpt2":
        return [END]
    # The space before [MASK] is part of the word to be found, so the mask takes it in.
    mask = AddedToken(BERT_SPECIALS[-1], lstrip=True, special=True)
    return [*BERT_SPECIALS[:-1], mask]


def _special_arguments(family: Family) -> dict[str, Any]:
    if family == "gpt2":
        return {"bos_token": END, "eos_token": END, "pad_token": END, "unk_token": END}
    pad, unknown, start, separator, mask = BERT_SPECIALS
    return {
        "pad_token": pad,
        "unk_token": unknown,
        "cls_token": start,
        "sep_token": separator,
        "mask_token": AddedToken(mask, lstrip=True, special=True),
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
