"""When a text ends, and what it says."""

from __future__ import annotations

from collections.abc import Sequence

from llm_problem.generation.choosing import end_tokens
from llm_problem.generation.decoding import Decoding
from llm_problem.models.loading import LoadedModel

_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a part of a character is decoded to


class Stopping:
    """Ends texts at the model's end tokens and at the strings of the settings.

    Args:
        model: whose tokens these are.
        decoding: says which strings.
    """

    def __init__(self, model: LoadedModel, decoding: Decoding) -> None:
        self._tokenizer, self._stop = model.tokenizer, decoding.stop
        # A special token is no part of decoded text, so that it is looked for by its number.
        special = {text for text in decoding.stop if text in model.tokenizer.all_special_tokens}
        self._ends = end_tokens(model) | {model.tokenizer.convert_tokens_to_ids(text) for text in special}
        self._last = {text[-1] for text in decoding.stop}
        self._may_stop: dict[int, bool] = {}

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether a text ends with the last of its tokens."""
        if tokens[-1] in self._ends:
            return True
        if not self._stop or not self._completes(tokens[-1]):
            return False
        text = self._decoded(tokens)
        return any(stop in text for stop in self._stop)

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say, up to the first of the strings that end a text."""
        text = self._decoded(tokens)
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text

    def _completes(self, token: int) -> bool:
        """Whether a stop string can end in this token."""
        if token not in self._may_stop:
            # Twice, because a tokenizer may drop the space before the first word.
            piece = self._tokenizer.decode([token, token], skip_special_tokens=True)
            self._may_stop[token] = any(character in self._last or character == _BROKEN for character in piece)
        return self._may_stop[token]

    def _decoded(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
