"""Prompts as a user's message in the tokenizer's own chat template."""

from __future__ import annotations

from llm_problem.models.loading import LoadedModel


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
