"""Scorers of a user's, in a module from where they can be imported."""


def length(prompts, outputs, references):
    """Shorter is better."""
    return [len(text) for text in outputs]


def misses(prompts, outputs, references):
    """How many letters of the reference a text has not."""
    return [len(set(right) - set(text)) for text, right in zip(outputs, references, strict=True)]


class Holder:
    """A name with dots."""

    @staticmethod
    def constant(prompts, outputs, references):
        return [1.0] * len(outputs)
