"""What a problem says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_problem.calibration import calibration_card
from llm_problem.models.quantised import kinds

if TYPE_CHECKING:
    from llm_problem.problem import Problem


def problem_card(problem: Problem, why: str) -> dict[str, Any]:
    """The card of a problem, plain JSON values; `why` its evaluator was chosen."""
    spec, evaluator, search = problem.spec, problem.evaluator, problem.batch("search")
    extras: dict[str, Any] = {}
    if spec.regularisation:
        extras["regularisation"] = dict(spec.regularisation)
    if spec.constraints:
        extras["constraints"] = dict(spec.constraints)
    if "drift" in spec.quantities and spec.neutral_text is not None:
        extras["neutral_text"] = f"{spec.neutral_text.label} (sha256 {spec.neutral_text.sha256[:16]})"
    if "forgetting" in spec.quantities and spec.other_task is not None:
        extras["other_task"] = spec.other_task.summary()
    return {
        "id": problem.name,
        "model": spec.model,
        "model_parameters": sum(p.numel() for p in problem.model.parameters()),
        **spec.task.summary(),
        "search_examples": search.examples,
        "search_tokens": search.tokens,
        "subspace": spec.subspace.kind,
        "subspace_settings": spec.to_dict()["subspace"],
        "dimension": problem.dimension,
        "moved_tensors": len(problem.subspace.parameters),
        "objectives": list(spec.objectives),
        **extras,
        "bounds": [-spec.bound, spec.bound],
        "sigma": problem.sigma,
        **calibration_card(spec, evaluator, search),
        "seed": spec.seed,
        "quantised": kinds(problem.model),
        # A pair keeps its own precision.
        "dtype": spec.dtype if spec.dtype != "float32" else str(problem.model.dtype).removeprefix("torch."),
        "evaluator": f"{evaluator.name} ({why}): {evaluator.description}",
        "memory": evaluator.memory(search),
        "fingerprint": problem.fingerprint,
        "tokens_sha256": search.fingerprint(),
        "basis_sha256": problem.subspace.basis_hash(),
    }
