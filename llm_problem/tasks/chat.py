"""Prompts as a user's message in the tokenizer's own chat template."""

from __future__ import annotations

from dataclasses import dataclass

from llm_problem.models.loading import LoadedModel
from llm_problem.tasks.verbalizer import Prompt


def chat_prompt(model: LoadedModel, prompt: str) -> str:
    """The text of a conversation in which the model is to answer the prompt.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if not getattr(model.tokenizer, "chat_template", None):
        raise ValueError(
            f"the tokenizer of {model.name} has no chat template: leave chat out, or take a model that was trained for "
            "conversations"
        )
    message = [{"role": "user", "content": prompt}]
    return model.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)


def in_chat(model: LoadedModel, prompt: Prompt, chat: bool) -> Prompt:
    """The prompt as it is, or as a message whose answer is the label.

    Raises:
        ValueError: a masked model, which holds no conversations.
    """
    if not chat:
        return prompt
    if model.kind == "masked":
        raise ValueError(f"{model.name} is a masked model, which answers no messages: leave chat out")
    return _Message(model, prompt)


@dataclass(frozen=True)
class _Message:
    """A prompt within the chat template."""

    model: LoadedModel
    prompt: Prompt
    opened = True

    @property
    def template(self) -> str:
        return self.prompt.template

    @property
    def ends_with_label(self) -> bool:
        return self.prompt.ends_with_label

    def render(self, text: str) -> tuple[str, str]:
        before, after = self.prompt.render(text)
        return chat_prompt(self.model, before), after
