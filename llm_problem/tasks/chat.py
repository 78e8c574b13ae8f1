"""Prompts as a user's message in the tokenizer's own chat template."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
import jinja2.meta

from llm_problem.models.loading import LoadedModel
from llm_problem.tasks.verbalizer import Prompt

Chat = bool | Mapping[str, Any] | tuple[tuple[str, Any], ...]
"""Whether there is one, or its options; a task holds them as pairs, sorted by name."""

TODAY = {
    "%d": "26", "%-d": "26", "%e": "26", "%m": "07", "%b": "Jul", "%B": "July", "%y": "24", "%Y": "2024",
    "%F": "2024-07-26", "%a": "Fri", "%A": "Friday", "%H": "00", "%M": "00", "%S": "00",
}  # fmt: skip
"""What a template that writes the date takes for today: a loss that changes at midnight is no function of x."""
_REPLACED = "".join(f" | replace('{directive}', '{said}')" for directive, said in TODAY.items())
# transformers takes no function from outside, and a macro hides the one that it offers.
_PINNED = f"{{%- macro strftime_now(form) -%}}{{{{ form{_REPLACED} }}}}{{%- endmacro -%}}"


def check_chat(task: Any) -> None:
    """Make a task's field `chat` what `Chat` says.

    Raises:
        ValueError: it is neither True nor False nor a mapping of options.
    """
    given = task.chat
    if isinstance(given, bool):
        return
    pairs = given.items() if isinstance(given, Mapping) else given if isinstance(given, tuple) else None
    if pairs is None or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"chat must be True, False or options such as {{'system': 'Be brief.'}}, got {given!r}")
    options = {str(name): value for name, value in pairs}
    for name, value in options.items():
        if not isinstance(value, (str, bool, int, float)):
            raise ValueError(f"the chat option {name!r} must be a text, a number, True or False, got {value!r}")
        if name in _taken() or not name.isidentifier():
            raise ValueError(f"{name!r} is no option of a chat: there are system, and the template's own variables")
    object.__setattr__(task, "chat", tuple(sorted(options.items())) or True)


def _options(chat: Chat) -> dict[str, Any]:
    return {} if isinstance(chat, bool) else dict(chat)


def chat_summary(chat: Chat) -> dict[str, Any]:
    """What a task's card says of it; nothing where there is none."""
    return {"chat": _options(chat) or True} if chat else {}


def require_chat(model: LoadedModel, chat: Chat) -> None:
    """Refuse a chat that cannot be held with this model, before any row is read.

    Raises:
        ValueError: a masked model, a tokenizer without a chat template, an option that the template does not read, a
            template that refuses the messages.
    """
    if not chat:
        return
    if model.kind == "masked":
        raise ValueError(f"{model.name} is a masked model, which answers no messages: leave chat out")
    if not getattr(model.tokenizer, "chat_template", None):
        raise ValueError(
            f"the tokenizer of {model.name} has no chat template: leave chat out, or take a model that was trained for "
            "conversations"
        )
    options = _options(chat)
    try:
        read = _variables(model.tokenizer.get_chat_template()) - _taken()
        if unknown := sorted(options.keys() - read - {"system"}):
            raise ValueError(
                f"it reads no {' and no '.join(map(repr, unknown))}; besides system, it reads "
                f"{', '.join(sorted(read)) or 'nothing'}"
            )
        said = chat_prompt(model, "a prompt", chat)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise ValueError(f"the chat template of {model.name} does not do: {error}") from error
    lost = [text for text in ("a prompt", str(options.get("system", ""))) if text.strip() not in said]
    if lost:
        raise ValueError(f"the chat template of {model.name} leaves out what it is given: {lost[0]!r}")


def chat_prompt(model: LoadedModel, prompt: str, chat: Chat) -> str:
    """The text of a conversation in which the model is to answer the prompt; the prompt alone where there is none."""
    if not chat:
        return prompt
    options = _options(chat)
    messages = [{"role": "system", "content": options.pop("system")}] if "system" in options else []
    messages.append({"role": "user", "content": prompt})
    template = model.tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = _PINNED + template
    return model.tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True, **options
    )


def in_chat(model: LoadedModel, prompt: Prompt, chat: Chat) -> Prompt:
    """The prompt as it is, or as a message whose answer is the label."""
    return _Message(model, prompt, chat) if chat else prompt


@dataclass(frozen=True)
class _Message:
    """A prompt within the chat template."""

    model: LoadedModel
    prompt: Prompt
    chat: Chat
    opened = True

    @property
    def template(self) -> str:
        return self.prompt.template

    @property
    def ends_with_label(self) -> bool:
        return self.prompt.ends_with_label

    def render(self, text: str) -> tuple[str, str]:
        before, after = self.prompt.render(text)
        return chat_prompt(self.model, before, self.chat), after


@cache
def _taken() -> frozenset[str]:
    """Names that a template gets from elsewhere."""
    from transformers import PreTrainedTokenizerBase

    tokens = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    functions = ("strftime_now", "raise_exception", "namespace", "dict", "messages", "additional_special_tokens")
    return frozenset({*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters, *tokens, *functions})


@cache
def _variables(template: str) -> frozenset[str]:
    """Names that a template reads and does not set itself."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True)
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)  # a tag that transformers adds to the language
    return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(plain)))
