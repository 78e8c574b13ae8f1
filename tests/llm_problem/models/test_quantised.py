"""Models that stay quantised: x = 0 is the quantised model, and x moves it as it would move its numbers."""

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.models import load_model
from llm_problem.models.quantised import is_quantised, kinds, plain


@pytest.fixture(scope="module")
def quantised(small_pair):
    """A function: family → a pair whose linear layers are 8-bit, and the same with its numbers written out."""
    torchao = pytest.importorskip("torchao.quantization")

    def make(family):
        model, tokenizer = small_pair(family, tie_word_embeddings=False)
        torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
        dense, _ = small_pair(family, tie_word_embeddings=False)
        with torch.no_grad():
            for parameter, other in zip(dense.parameters(), model.parameters(), strict=True):
                parameter.copy_(plain(other))
        return (model, tokenizer), (dense, tokenizer)

    return make


@pytest.mark.parametrize("evaluator", ["serial", "replay"])
@pytest.mark.parametrize(
    "subspace",
    [
        lp.subspaces.LoRAXS(2, layers=2),
        lp.subspaces.RandomSubspace(4, layers=1),
        lp.subspaces.SparseProjection(40, layers=1),
        lp.subspaces.Scales(layers=2),
        lp.subspaces.NormsAndBiases(layers=2),
    ],
    ids=lambda subspace: subspace.kind,
)
@pytest.mark.parametrize("family", ["llama", "opt", "bert"])
def test_losses_are_those_of_the_numbers(family, subspace, evaluator, quantised, label_task, points):
    pair, dense = quantised(family)
    before = [(id(p), p.data_ptr()) for p in pair[0].parameters()]
    problems = [lp.Problem(p, label_task, subspace, evaluator=evaluator) for p in (pair, dense)]
    X = points(3, problems[0].dimension)
    np.testing.assert_allclose(problems[0].evaluate(X), problems[1].evaluate(X), rtol=0, atol=5e-6)
    assert problems[0].card()["quantised"] == ["Int8Tensor"]
    assert [(id(p), p.data_ptr()) for p in pair[0].parameters()] == before


def test_what_a_quantised_model_cannot_do_is_refused(quantised, label_task, tmp_path):
    pair, _ = quantised("llama")
    with pytest.raises(ValueError, match="no full vector"):
        lp.Problem(pair, label_task, lp.subspaces.FullVector())
    problem = lp.Problem(pair, label_task, lp.subspaces.LoRAXS(2, layers=1))
    with pytest.raises(ValueError, match="cannot be merged"):
        problem.save_model(problem.x0, tmp_path / "merged")
    problem.save_adapter(problem.x0 + 1, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_plain_models_are_not_quantised(tiny_gpt2):
    assert kinds(tiny_gpt2.model) == []
    parameter = next(tiny_gpt2.model.parameters())
    assert not is_quantised(parameter)
    assert plain(parameter).data_ptr() == parameter.data_ptr()
    assert load_model(tiny_gpt2) is tiny_gpt2
