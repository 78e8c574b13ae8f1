"""Fewer cases than all pairs, where each of two things matters and seldom both."""


def covering(first, second, each):
    """Pairs (a, b) in which every a and every b, whatever is registered, stand `each` times or more.

    Raises:
        ValueError: there are fewer than `each` of either.
    """
    first, second = list(first), list(second)
    step = min(len(first), len(second)) // each
    if not step:
        raise ValueError(f"{each} partners each need as many, got {len(first)} and {len(second)}")
    return [(a, b) for i, a in enumerate(first) for j, b in enumerate(second) if (i - j) % step == 0]
