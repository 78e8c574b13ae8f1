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


def test_the_simulated_part_writes_figures_and_a_picture(tmp_path, capsys):
    picture, file = tmp_path / "curve.png", tmp_path / "figures.json"
    words = ["simulated", "--workers", "1", "4", "--populations", "16", "--evaluation", "0.02"]
    assert main([*words, "--picture", str(picture), "--json", str(file)]) == 0
    one, four = json.loads(file.read_text())["simulated"]["rows"]
    assert 2 < four["rate"] / one["rate"] < 4.5
    assert np.isclose(one["rate"], one["model"], rtol=0.3)
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "| evaluations a second (the formula's) | 1 workers | 4 workers |" in said and "| population 16 |" in said


def test_the_parts_with_real_workers_print_their_tables(tmp_path, capsys):
    file = tmp_path / "figures.json"
    words = ["workers", "memory", "formula", "--models", "tiny-gpt2", "--layers", "1", "--points", "8", "--rounds", "1"]
    assert main([*words, "--real", "1", "2", "--no-ray", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert [(row["kind"], row["workers"]) for row in found["workers"]] == [
        ("here", 1),
        ("here", 2),
        ("processes", 1),
        ("processes", 2),
    ]
    assert all(row["rate"] > 0 and row["same"] for row in found["workers"])
    one, two = found["memory"]
    assert one["private"] < one["rss"] and two["all"] < two["rss"] * 3
    waiting = [row for row in found["formula"] if row["problem"].startswith("waits")]
    assert 1.4 < waiting[1]["rate"] / waiting[0]["rate"] < 2.2
    said = capsys.readouterr().out
    assert "| tiny-gpt2, last 1 |" in said and "| tiny-gpt2 | 2 |" in said
