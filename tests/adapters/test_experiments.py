"""Experiments go on where they were stopped, and say what they found."""

import json

import numpy as np
import pytest

import llm_problem as lp
from llm_problem_adapters import GeneticAlgorithm, list_optimizers, minimize
from llm_problem_adapters.experiments import defaults, genetic_algorithms, genetic_steps, movement, search_sizes
from llm_problem_adapters.experiments.records import Records

PROBLEM = "tiny-gpt2-prose-lora-xs-d32-v1"


def test_a_run_that_is_in_the_file_is_not_made_again(tmp_path):
    path = tmp_path / "folder" / "runs.jsonl"
    identity = {"optimizer": "cma", "seed": 1}
    assert Records(path, ("optimizer", "seed")).run(identity, lambda: {"loss": 0.1}) == {**identity, "loss": 0.1}
    again = Records(path, ("optimizer", "seed"))
    assert again.run(identity, lambda: pytest.fail("made again")) == {**identity, "loss": 0.1}
    assert again.run({**identity, "seed": 2}, lambda: {"loss": 0.2})["loss"] == 0.2
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_was_cut_off_is_made_again_and_the_others_are_kept(tmp_path, cut):
    path = tmp_path / "runs.jsonl"
    for seed in (1, 2):
        Records(path, ("seed",)).run({"seed": seed}, lambda: {"loss": 0.123456789})
    path.write_bytes(path.read_bytes()[:-cut])
    records = Records(path, ("seed",))
    records.run({"seed": 1}, lambda: pytest.fail("made again"))
    assert records.run({"seed": 2}, lambda: {"loss": 7.0})["loss"] == 7.0
    assert Records(path, ("seed",)).run({"seed": 2}, lambda: pytest.fail("made again"))["loss"] == 7.0


def test_movement_tells_who_stands_still(tmp_path, capsys, monkeypatch):
    options = ["--seeds", "1", "--budget", "40", "--problems", PROBLEM, "--out", str(tmp_path / "runs.jsonl")]
    assert movement.main([*options, "--optimizers", "cma", "nevergrad:SPSA"]) == 0  # SPSA has its reason
    printed = capsys.readouterr().out
    assert "cma" in printed and movement.REASONS["nevergrad:SPSA"] in printed
    monkeypatch.setattr(movement, "REASONS", {})
    assert movement.main([*options, "--optimizers", "cma", "nevergrad:SPSA"]) == 1
    assert "fails" in capsys.readouterr().out


def test_movement_has_every_black_box_optimizer_of_ours():
    """But for the document's, which takes 5,000 evaluations, and the diagonal variant of pycma's."""
    ours = {name for name in list_optimizers(gradients=False) if ":" not in name}
    assert ours - set(movement.OPTIMIZERS) == {"genetic-algorithm-document", "cma-diagonal"}


def test_scores_are_shares_of_the_largest_fall():
    falls = {"defaults": [0.5, 2.0], "step 0.3": [1.0, 1.0]}
    assert defaults.scores(falls) == {"defaults": 0.75, "step 0.3": 0.75}


def test_defaults_that_another_setting_is_ahead_of_are_told(tmp_path, capsys, monkeypatch):
    changes = {"evolution-strategy": ({"first_move": 1e-9},), "spsa": ({"gain": 1e-12},)}
    monkeypatch.setattr(defaults, "CHANGES", changes)
    problem = ["--problems", "tiny-bert-prose-random-d32-v1"]
    options = ["--seeds", "1", "--budget", "20", *problem, "--out", str(tmp_path / "runs.jsonl")]
    assert defaults.main(options) == 0
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 4
    assert "ahead" not in capsys.readouterr().out
    table = {"spsa": {"defaults": [0.2], "gain 0.5": [0.3]}, "adam": {"defaults": [0.3], "learning_rate 1": [0.3]}}
    assert defaults.print_table(table, problem[1:]) == {"spsa"}
    assert "ahead" in capsys.readouterr().out


def test_genetic_algorithms_are_compared_seed_by_seed(tmp_path, capsys):
    options = ["--seeds", "2", "--budget", "60", "--problems", PROBLEM, "--out", str(tmp_path / "runs.jsonl")]
    assert genetic_algorithms.main(options) == 0
    printed = capsys.readouterr().out
    assert PROBLEM in printed and "improved" in printed
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert {r["optimizer"] for r in runs} == {"genetic-algorithm-document", *genetic_algorithms.OTHERS}
    worse = [
        {**r, "loss": r["loss"] + (r["optimizer"] == "genetic-algorithm-improved") * k} for r in runs for k in (5, 6)
    ]
    more = [{**r, "loss": r["loss"] + k / 100} for r in worse for k in range(5)]
    _, found = genetic_algorithms.table(more, [PROBLEM])
    assert found


def test_nothing_was_tuned_on_what_the_genetic_algorithms_are_compared_on():
    assert not set(genetic_algorithms.PROBLEMS) & set(defaults.PROBLEMS)
    assert len(genetic_algorithms.PROBLEMS) >= 8


def test_the_steps_lead_from_the_documents_genetic_algorithm_to_ours():
    problem, seed = lp.make(PROBLEM), 3
    rows = list(genetic_steps.settings().values())
    end = 1 + len(genetic_steps.CHANGES)
    for options, reference in ((rows[0], "genetic-algorithm-document"), (rows[end - 1], "genetic-algorithm")):
        ours = minimize(problem, GeneticAlgorithm(**options), budget=120, seed=seed)
        assert np.array_equal(ours.losses, minimize(problem, reference, budget=120, seed=seed).losses)
    assert genetic_steps.main(["--seeds", "1", "--budget", "60", "--problems", PROBLEM]) == 0


def test_search_sizes_go_on_and_say_what_each_number_of_sentences_is_worth(tmp_path, capsys):
    words = ["--model", "tiny-gpt2", "--sizes", "8", "16", "--optimizers", "cma", "--budget", "20"]
    words += ["--out", str(tmp_path / "runs.jsonl"), "--picture", str(tmp_path / "sizes.png")]
    assert search_sizes.main([*words, "--seeds", "1"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[:2] for row in table[2:]] == [
        [f"| {size}", name] for size in (8, 16) for name in ("pretrained", "cma")
    ]
    assert (tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert {(row["size"], row["optimizer"], row["seed"]) for row in rows} == {
        (size, name, 0) for size in (8, 16) for name in ("pretrained", "cma")
    }
    (first,) = (row for row in rows if (row["size"], row["optimizer"]) == (8, "pretrained"))
    problem = lp.Problem("tiny-gpt2", search_sizes.task_for(8, None), lp.subspaces.LoRAXS(8, layers=1), seed=0)
    assert first["loss"] == pytest.approx(problem(problem.x0))
    assert search_sizes.main([*words, "--seeds", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == table
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 4
