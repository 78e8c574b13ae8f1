"""The formula of throughput, and the simulated cluster that it is compared with."""

import json

import numpy as np
import pytest

from llm_problem_adapters import minimize
from llm_problem_adapters.faults.objectives import Free
from llm_problem_adapters.parallel.command import main
from llm_problem_adapters.parallel.model import Costs, chunks, throughput
from llm_problem_adapters.parallel.simulated import SimulatedPool


def test_the_formula_in_its_two_ends():
    assert throughput(Costs(0.1, 0.0, 0.0), 64, 1) == pytest.approx(10)
    assert throughput(Costs(0.1, 0.0, 0.0), 64, 64) == pytest.approx(640)
    assert throughput(Costs(0.1, 0.0, 0.0), 64, 1000) == pytest.approx(640)  # one point each, and the rest idle
    assert throughput(Costs(0.0, 0.001, 0.0), 1000, 1000) == pytest.approx(1000, rel=0.01)  # the driver's messages
    assert throughput(Costs(0.0, 0.0, 0.01), 50, 4) == pytest.approx(100)  # telling
    assert [chunks(n, k) for n, k in ((1, 4), (16, 4), (160, 4), (10, 2))] == [1, 16, 16, 5]


def test_a_simulated_cluster_is_as_fast_as_its_sleeps_and_gives_the_serial_run():
    problem = Free(8)
    with SimulatedPool(problem, 200, 0.05) as pool:
        found = minimize(problem, "genetic-algorithm", 402, population=200, workers=pool)
    assert found.losses.tobytes() == minimize(Free(8), "genetic-algorithm", 402, population=200).losses.tobytes()
    assert found.seconds < 402 * 0.05 / 5


def test_the_command_writes_figures_and_a_picture(tmp_path, capsys):
    picture, file = tmp_path / "curve.png", tmp_path / "figures.json"
    words = ["simulated", "--workers", "1", "4", "--populations", "16", "--evaluation", "0.02"]
    assert main([*words, "--picture", str(picture), "--json", str(file)]) == 0
    one, four = json.loads(file.read_text())["simulated"]["rows"]
    assert 2 < four["rate"] / one["rate"] < 4.5
    assert np.isclose(one["rate"], one["model"], rtol=0.3)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "4 workers" in capsys.readouterr().out
