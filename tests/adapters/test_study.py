"""Studies that are run: shared between processes, taken up again, repeated; a failure is recorded, the rest goes on."""

import csv
import dataclasses
import json

import pytest

import llm_problem as lp
from llm_problem import registry
from llm_problem.cli import main
from llm_problem.records import RunRecord, write_csv
from llm_problem.study import Study, read, write_report
from llm_problem.study.runs import StudyFolder, runs_of
from llm_problem_adapters import make_optimizer, minimize
from llm_problem_adapters.restarting import Restarting, restarting
from llm_problem_adapters.study import compare
from llm_problem_adapters.study.one_run import describe, perform
from llm_problem_adapters.study.workers import Told, Workers

A, B = "tiny-gpt2-prose-lora-xs-d32-v1", "tiny-gpt2-agreement-tiny-lora-d8-v1"
BROKEN = {"name": "cma", "label": "broken", "options": {"popsize": 1}}  # refused once the run begins
FILE = f"""
optimizers = ["random-search", "cma", {{name = "cma", label = "broken", options = {{popsize = 1}}}}]
problems = ["{A}", "{B}"]
seeds = 2
budget = 20
"""


def study(**changes):
    values = {"optimizers": ["cma", "nevergrad:OnePlusOne"], "problems": [A], "seeds": [1], "budget": 30}
    return Study.from_dict({**values, **changes})


def in_process(study, path, show=None):
    """What workers do, here."""
    folder = StudyFolder(path)
    folder.begin(study, {})
    problems = {}
    for run in runs_of(study):
        name = run.problem.name
        if name not in problems:
            problems[name] = run.problem.make()
            folder.write_problem(run.problem, describe(run.problem, problems[name]))
        perform(run, problems[name], study, folder, show)
    return folder


def without_seconds(path):
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_workers_share_a_study_that_goes_on_and_repeats(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(FILE)
    assert main(["compare", "small.toml", "--workers", "2"]) == 1  # "broken" has failed, and the rest went on
    said = capsys.readouterr()
    assert "8 of 12 runs have finished, 8 of them now: runs/small" in said.out
    assert "4 runs failed" in said.err and "llm-problem compare small.toml --out runs/small --workers 2" in said.err
    results = read("runs/small")
    assert {run.optimizer for run in results.failed} == {"broken"} and not results.missing
    assert all("popsize" in run.error or "batch_size" in run.error for run in results.failed)
    assert results.problems == [A, B] and len(results.finished) == 4
    assert main(["report", "runs/small"]) == 0
    assert "0 runs are missing, 4 failed" in capsys.readouterr().out

    # One worker, in this order or that, finds the same; what is left of a study goes on.
    whole = study(optimizers=["random-search", "cma"], problems=[A, B], seeds=[1, 2], budget=20)
    folder = in_process(study(optimizers=["cma"], problems=[B, A], seeds=[2], budget=20), tmp_path / "again")
    assert compare(whole, folder.path, progress=False).exit_code == 0
    write_report(folder.path)
    for name in ("runs.csv", "trajectories.csv"):
        first, second = (without_seconds(p / "report" / "data" / name) for p in (tmp_path / "runs/small", folder.path))
        assert [row for row in first if row["optimizer"] != "broken"] == second


def test_a_run_is_minimize_of_the_same_seed(tmp_path):
    folder = in_process(study(seeds=[3]), tmp_path / "s")
    results, problem = read(folder.path), lp.make(A)
    for optimizer in results.optimizers:
        (run,) = results.of(A, optimizer)
        alone = minimize(problem, optimizer, 30, seed=3)
        assert (run.best_loss, run.loss, run.last_loss) == (alone.best_loss, alone.loss, alone.losses[-1])
        assert run.improvements[0] == (1, problem(problem.x0)) and run.improvements[-1][1] == alone.best_loss
        assert run.held_out["test"] == problem.metrics(alone.x, "test")
    assert results.facts[A]["f0"] == problem(problem.x0)


def test_a_split_of_a_single_class_leaves_its_metrics_out(tmp_path, monkeypatch):
    rows = [("a fine day", "good"), ("a dull day", "bad")]
    task = lp.tasks.Classification.from_records(
        [{"text": t, "label": label, "split": split} for split in ("search", "test") for t, label in rows]
        + [{"text": "a warm day", "label": "good", "split": "dev"}],
        text="text", label="label", prompt="{text} is", labels={"bad": " bad", "good": " good"}, split="split",
    )  # fmt: skip
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    id = "own/tiny-gpt2-days-lora-xs-d8-v1"
    lp.register(id, lambda: lp.ProblemSpec("tiny-gpt2", task, lp.subspaces.LoRAXS(2, layers=1)))
    in_process(study(problems=[id], optimizers=["cma"], budget=5), tmp_path / "s")
    (run,) = read(tmp_path / "s").of(id, "cma")
    assert run.held_out["dev"] == {} and run.held_out["test"]["examples"] == 2


def test_an_interrupted_run_goes_on_from_its_record(tmp_path):
    wanted, seen = study(optimizers=["cma"]), []

    def stop(progress):
        seen.append(progress.evaluations)
        if progress.evaluations >= 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_process(wanted, tmp_path / "s", stop)
    (run,) = runs_of(wanted)
    folder = StudyFolder(tmp_path / "s")
    assert folder.ended(run) is None and read(folder.path).missing == [str(run)]
    with RunRecord.read(folder.record(run)) as record:
        before = record.tail.rows
        assert 0 < before < 30
        best = float("inf")
        for row in record.rows():
            assert (row.x is not None) == (row.loss < best)  # of the others the hashes
            best = min(best, row.loss)
    in_process(wanted, tmp_path / "s")
    with RunRecord.read(folder.record(run)) as record:
        assert record.tail.rows == 30
    in_process(wanted, tmp_path / "whole")
    assert folder.ended(run).improvements == StudyFolder(tmp_path / "whole").ended(run).improvements
    with pytest.raises(ValueError, match="has the hashes of its points"):
        write_csv(folder.record(run), tmp_path / "points.csv", points=True)


def test_a_study_may_grow_but_its_budget_and_policy_stay(tmp_path):
    folder = in_process(study(optimizers=["random-search"], budget=5), tmp_path / "s")
    in_process(study(optimizers=["random-search", "cma"], budget=5, seeds=[1, 2]), tmp_path / "s")
    assert read(folder.path).runs == 4
    for changes, word in (({"budget": 6}, "budget 5"), ({"budget": 5, "policy": {"restarts": True}}, "policy")):
        with pytest.raises(ValueError, match=f"is of a study with {word}"):
            folder.begin(study(**changes), {})
    folder.begin(study(optimizers=["cma"], budget=5), {})
    for label, options in (("random-search", {}), ("cma", {"popsize": 9})):  # one has been left out meanwhile
        optimizer = {"name": "cma", "label": label, "options": options}
        with pytest.raises(ValueError, match=f"{label!r} was another optimizer, .* another label"):
            folder.begin(study(optimizers=[optimizer], budget=5), {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="holds no study"):
        StudyFolder(tmp_path / "other").begin(study(), {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "workers must be an integer of at least 1, got 0"),
        ([], "there is no optimizer 'cmma'; near names: cma"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(FILE.replace('"cma", {', '"cmma", {') if not words else FILE)
    assert main(["compare", "s.toml", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_that_another_process_has_ended_meanwhile_is_no_missing_one(tmp_path, monkeypatch):
    wanted, names = study(optimizers=["random-search"], budget=5, seeds=[1, 2]), iter(("of a run", "of another run"))
    in_process(study(optimizers=["random-search"], budget=5, seeds=[2]), tmp_path / "s")
    runs = list(runs_of(wanted))
    monkeypatch.setattr(Workers, "perform", lambda *_: [Told(0, run, 0, None, busy=next(names)) for run in runs])
    found = StudyFolder.ended
    monkeypatch.setattr(StudyFolder, "ended", lambda *_: None)  # as it was when runs were handed out

    def afterwards(*words):
        monkeypatch.setattr(StudyFolder, "ended", found)

    monkeypatch.setattr(Workers, "__exit__", afterwards)
    done = compare(wanted, tmp_path / "s", progress=False)
    assert (done.found, done.missing, done.busy, done.exit_code) == (1, 1, ["of a run"], 1)


def test_a_problem_that_cannot_be_made_is_tried_once_by_each_worker(tmp_path):
    spec = dataclasses.replace(lp.get_spec(A), id=None, subspace=lp.subspaces.LoRAXS(rank=2, modules="nowhere"))
    (tmp_path / "mine.json").write_text(spec.to_json())
    wanted = Study.from_dict(
        {"optimizers": ["cma", "random-search"], "problems": [{"spec": "mine.json"}], "seeds": 2, "budget": 5},
        folder=tmp_path,
    )
    found = compare(wanted, tmp_path / "s", progress=False)
    assert len(found.failed) == 4 and len({each.error for each in found.failed}) == 1
    assert "nowhere" in found.failed[0].error


def test_fail_fast_ends_with_the_first_failure(tmp_path):
    found = compare(
        study(optimizers=[BROKEN, "cma"], seeds=[1, 2], budget=4), tmp_path / "s", fail_fast=True, progress=False
    )
    assert (len(found.ended), len(found.failed), found.exit_code) == (1, 1, 1)


def test_a_card_that_is_published_brings_its_targets(tmp_path):
    (entry,) = study(problems=["tiny-bert-agreement-random-d10-v1"]).problems
    problem, card = entry.make(), entry.card
    facts = describe(entry, problem)
    assert facts["targets"] == card["targets"] and facts["reference"]["loss"] == card["reference"]["loss"]
    json.dumps(facts)


class Sphere:
    dimension, x0, bounds, sigma = 4, 0.0, None, 1.0

    def evaluate(self, X):
        return ((X - 1) ** 2).sum(axis=1)


def test_an_optimizer_that_stops_is_begun_again_with_another_seed():
    options = {"tolfun": 1e-2}
    once = minimize(Sphere(), "cma", 600, seed=1, **options)
    again = minimize(Sphere(), restarting("cma", options), 600, seed=1)
    assert once.evaluations < again.evaluations == 600
    n = once.evaluations - 1  # the last one is the recommended point's
    assert (once.losses[:n] == again.losses[:n]).all() and again.stop_reason == "budget"
    assert again.optimizer == "cma"
    repeated = minimize(Sphere(), restarting("cma", options), 600, seed=1)
    assert (repeated.losses == again.losses).all()
    assert again.loss <= again.losses.min()


def test_restarts_that_lead_nowhere_end():
    settings = {"dimension": 2, "x0": [0.0, 0.0], "bounds": None, "sigma": 1.0, "horizon": 50, "seed": 0}
    optimizer = Restarting("random-search", {**settings, "batch_size": None, "start_at_x0": True}, {})
    stopped = make_optimizer("random-search", **settings)
    stopped.stop_reason = "tired"
    optimizer._begin = lambda: setattr(optimizer, "_since", 0)
    optimizer._inner, optimizer._since = stopped, 0
    with pytest.raises(RuntimeError, match="stops before it asks for anything: tired"):
        optimizer.ask(1)
    assert optimizer.stop_reason == "tired"
