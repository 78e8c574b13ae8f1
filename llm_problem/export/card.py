"""What a saved model says of itself."""

from __future__ import annotations

from collections.abc import Mapping

from llm_problem.spec import ProblemSpec


def model_card(name: str, spec: ProblemSpec, fingerprint: str, metrics: Mapping[str, float]) -> str:
    """README.md of an exported adapter or model: where it came from and what it reached on the search split."""
    losses = ", ".join(f"{metric} {value:.6f}" for metric, value in metrics.items())
    return (
        f"# {name}\n\n"
        f"Found by gradient-free search with llm-problem; base model: `{spec.model}`.\n\n"
        f"- search split: {losses}\n- problem fingerprint: `{fingerprint}`\n\n"
        f"```json\n{spec.to_json()}\n```\n"
    )
