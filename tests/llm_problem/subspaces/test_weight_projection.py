"""What all projections of chosen weights refuse."""

import psutil
import pytest

from llm_problem.subspaces import SUBSPACES
from llm_problem.subspaces.weight_projection import WeightProjection

PROJECTIONS = [cls for cls in SUBSPACES.values() if issubclass(cls, WeightProjection)]
projections = pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda cls: cls.kind)


def test_there_are_projections():
    assert {"fastfood", "random", "sparse-projection"} <= {cls.kind for cls in PROJECTIONS}


@projections
def test_more_dimensions_than_entries_are_refused(projection, small_model):
    loaded = small_model("llama")  # v_proj has 512 entries
    assert projection(512, layers=1, modules="v_proj").bind(loaded, 0).dimension == 512
    with pytest.raises(ValueError, match=r"dimension 513 is above the number of chosen weights, 512"):
        projection(513, layers=1, modules="v_proj").bind(loaded, 0)


@projections
@pytest.mark.parametrize("dimension", [0, -3, 2.0, True])
def test_dimension_must_be_a_positive_integer(projection, dimension):
    with pytest.raises(ValueError, match="dimension must be an integer of at least 1"):
        projection(dimension)


@projections
@pytest.mark.parametrize("dimension", [4, 64])
def test_what_does_not_fit_into_memory_is_refused_before_it_is_drawn(projection, dimension, small_model, monkeypatch):
    class Little:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    message = (
        rf"projecting 1536 weights to dimension {dimension} .* GiB are free: "
        "choose fewer modules or layers, or a smaller dimension"
    )
    with pytest.raises(ValueError, match=message):
        projection(dimension, layers=1).bind(small_model("llama"), 0)
