"""A study's report: it stands on its own, escapes what it is told, says what is missing; other tools read its files."""

import csv
import json
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest

import llm_problem as lp
from llm_problem.function_ids import function_id
from llm_problem.harmless import safe_name
from llm_problem.study import ioh_files, read, write_report
from llm_problem.study.attainment import targets
from llm_problem.study.ioh_files import write_ioh
from llm_problem.study.ranking import against_leader, pairs
from llm_problem.study.runs import Ended, runs_of
from llm_problem.study.tables import Table, winners_table
from tests.llm_problem.study.made_studies import PROBLEMS, made_study

HOSTILE = "<script>alert('x')</script> & $x_{$"
NAMES = ["random-search", {"name": "genetic-algorithm", "label": HOSTILE}, "cma"]
VOID = {"meta", "img", "br"}


class Checked(HTMLParser):
    """Collects tags and addresses, and sees that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.words = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "whole"
    made_study(path, optimizers=NAMES, problems=10, seeds=5)
    return path, write_report(path)


HALF = {"optimizers": NAMES, "problems": 2, "seeds": 2, "left_out": [0, 5, 11], "failed": [1]}


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "partial"
    made_study(path, **HALF)
    return path, write_report(path)


def test_the_page_needs_nothing_but_itself(whole):
    page = Checked(whole[1].page.read_text(encoding="utf-8"))
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    folder = whole[1].page.parent
    for address in page.addresses:
        assert address.startswith(("data:image/png;base64,", "#")) or (folder / address).is_file(), address
    assert page.tags.count("img") == 7  # every figure, the diagram too


def test_names_are_shown_and_not_run(whole, partial):
    for _, done in (whole, partial):
        text = done.page.read_text(encoding="utf-8")
        assert "<script" not in text and "<b>broken" not in text
        assert HOSTILE in "".join(Checked(text).words)


def test_figures_are_there_as_png_and_pdf(whole):
    folder = whole[1].page.parent / "figures"
    stems = {path.stem for path in folder.iterdir()}
    assert stems == {"convergence", "shares", "share-matrix", "ecdf", "profiles", "ranks", "correlations"}
    for stem in stems:
        assert (folder / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{stem}.pdf").read_bytes().startswith(b"%PDF")


def test_a_half_finished_study_says_what_is_missing(partial):
    path, done = partial
    assert (done.missing, done.failed) == (3, 1)
    words = "".join(Checked(done.page.read_text(encoding="utf-8")).words)
    assert "3 of 12 runs are missing" in words and "1 runs failed" in words
    for missing in read(path).missing:
        assert missing in words
    assert "RuntimeError: <b>broken</b>" in words
    assert not (done.page.parent / "figures" / "ranks.png").exists()


def test_runs_that_are_all_the_same_are_one_run(tmp_path):
    folder = made_study(tmp_path / "s", optimizers=["random-search", "cma", "differential-evolution"], seeds=6)
    first = PROBLEMS[0]
    for run in runs_of(folder.study()):
        if (run.problem.name, run.optimizer.label) == (first, "cma"):
            same = Ended(first, "cma", run.seed, "finished", evaluations=60, improvements=[(1, 2.0), (7, 0.5)])
            folder.write_ended(run, same)
    page = write_report(folder.path).page.read_text(encoding="utf-8")
    assert f"cma draws nothing on {first}: its runs are the same for every seed" in page
    results = read(folder.path)
    assert {(pair.first, pair.second) for pair in pairs(results, first)} == {
        ("random-search", "differential-evolution")
    }
    assert len(pairs(results, PROBLEMS[1])) == 3
    # The others are told from the first of those that draw, though the one run is ahead of it.
    losses = {o: results.final(first, o) for o in results.optimizers}
    (pair,) = pairs(results, first)
    leader, other = sorted(("random-search", "differential-evolution"), key=lambda o: np.median(losses[o]))
    assert against_leader(results, first) == {
        other: (pytest.approx(np.mean(losses[other][:, None] < losses[leader])), pair.corrected),
        "cma": (np.mean(losses["cma"][:, None] < losses[leader]), None),
    }
    assert len(against_leader(results, PROBLEMS[1])) == 2
    assert "seeds are too few" not in page  # 3 pairs of 6 seeds: p can be 3 · 2/924


def test_seeds_that_no_difference_could_be_seen_with_are_called_too_few(tmp_path):
    names = ["random-search", "cma", "differential-evolution", "particle-swarm", "spsa"]
    folder = made_study(tmp_path / "s", optimizers=names, seeds=5)  # 10 pairs: p is 10 · 2/252 at least
    text = write_report(folder.path).page.read_text(encoding="utf-8")
    assert "5 seeds are too few for a p below 0.05" in text


def test_an_optimizer_is_not_ahead_of_those_that_are_as_good(tmp_path):
    folder = made_study(tmp_path / "s", optimizers=["random-search", "cma", "spsa"], problems=1)
    results = read(folder.path)
    (row,) = winners_table(results, [1, 60]).rows
    assert row[2:] == ("3 alike", "spsa")  # all begin at x = 0


def test_shares_of_all_problems_have_one_kind_of_reference(tmp_path):
    results = read(made_study(tmp_path / "s", optimizers=["random-search", "cma"], problems=2).path)
    assert not any(found.frozen for found in targets(results).values())
    card = {"targets": {"10": 1.0, "100": 0.5}, "reference": {"loss": 0.5}}
    results.facts[PROBLEMS[0]].update(card)
    assert not any(found.frozen for found in targets(results).values())
    results.facts[PROBLEMS[1]].update(card)
    for found in targets(results).values():
        assert (found.frozen, found.budgets, found.losses, found.reference) == (True, (10, 100), (1.0, 0.5), 0.5)
    # A card that was published since counts, if it is of this problem.
    name = PROBLEMS[0]
    results.facts[name] |= {"targets": None, "reference": None, "fingerprint": lp.suites.card(name)["fingerprint"]}
    assert targets(results)[name].reference == lp.suites.card(name)["reference"]["loss"]


def test_nothing_finished_is_an_error(tmp_path):
    made_study(tmp_path / "none", optimizers=["cma"], problems=1, seeds=1, failed=[0])
    with pytest.raises(ValueError, match=r"no run of the study .* has finished yet; 1 failed"):
        write_report(tmp_path / "none")
    with pytest.raises(ValueError, match=r"is no folder of a study: it has no study\.json"):
        write_report(tmp_path)


def test_the_same_study_gives_the_same_bytes(partial, tmp_path):
    made_study(tmp_path / "again", **HALF)
    first, second = partial[1].page.parent, write_report(tmp_path / "again").page.parent
    for name in ("index.html", "figures/convergence.png", "figures/ecdf.pdf", "data/runs.csv", "data/trajectories.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    # Written anew, nothing of the one before is left.
    (second / "figures" / "ranks.png").write_bytes(b"of before")
    (second / "ioh" / "gone").mkdir()
    write_report(tmp_path / "again")
    assert not (second / "figures" / "ranks.png").exists() and not (second / "ioh" / "gone").exists()


def test_trajectories_read_back_to_the_bit(whole):
    results = read(whole[0])
    with (whole[1].page.parent / "data" / "trajectories.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            (r["problem"], int(r["seed"]), int(r["evaluation"]), float(r["best_loss"])) for r in csv.DictReader(file)
        ]
    expected = [
        (run.problem, run.seed, number, loss)
        for problem in results.problems
        for optimizer in results.optimizers
        for run in results.of(problem, optimizer)
        for number, loss in run.improvements
    ]
    assert rows == expected


def test_nevergrads_columns_are_there(whole):
    from tests.adapters.test_nevergrad_benchmark import COLUMNS

    with (whole[1].page.parent / "data" / "nevergrad.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) >= COLUMNS and len(rows) == read(whole[0]).runs
    assert {row["optimizer_name"] for row in rows} == {"random-search", HOSTILE, "cma"}


def test_numbers_of_functions_are_few_enough_digits_and_different(monkeypatch):
    names = lp.list_problems("*")
    numbers = ioh_files._numbers(names)
    assert len(set(numbers.values())) == len(names) and max(numbers.values()) < 2**16
    assert numbers == {name: function_id(name) for name in names}  # no two of the named ones meet
    monkeypatch.setattr(ioh_files, "function_id", lambda name: 65_535)
    assert ioh_files._numbers(["a", "b", "c"]) == {"a": 65_535, "b": 10_001, "c": 10_002}


def test_ioh_files_are_read_by_iohinspector(whole):
    iohinspector = pytest.importorskip("iohinspector")
    manager = iohinspector.DataManager()
    manager.add_folder(str(whole[1].page.parent / "ioh"))
    results = read(whole[0])
    loaded = manager.load(False, True)
    assert len(loaded["data_id"].unique()) == results.runs
    assert set(loaded["algorithm_name"].unique()) == set(results.optimizers)
    lowest = min(results.final(p, o).min() for p in results.problems for o in results.optimizers)
    assert loaded["raw_y"].min() == pytest.approx(lowest)


def test_ioh_files_are_those_of_iohs_own_logger(tmp_path):
    ioh = pytest.importorskip("ioh")
    made_study(tmp_path / "s", optimizers=["cma"], problems=1, seeds=2, budget=30)
    results = read(tmp_path / "s")
    (problem,), (name,) = results.problems, results.optimizers
    write_ioh(results, tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = iter([])
        wrapped = ioh.wrap_problem(lambda x: next(values), problem, ioh.ProblemClass.REAL, 2)
        wrapped.set_id(function_id(problem))
        logger = ioh.logger.Analyzer(root=str(tmp_path), folder_name="theirs", algorithm_name=name)
        wrapped.attach_logger(logger)
        for run in results.of(problem, name):
            worse, steps = 5.0, dict(run.improvements)
            losses = [steps.get(number, worse) for number in range(1, run.evaluations)] + [
                steps.get(run.evaluations, run.last_loss)
            ]
            values = iter(losses)
            for _ in losses:
                wrapped([0.0, 0.0])
            wrapped.reset()
        wrapped.detach_logger()
        logger.close()
    ours, theirs = (next(folder.rglob("*.dat")) for folder in (tmp_path / "ours", tmp_path / "theirs"))
    assert ours.read_text() == theirs.read_text()
    ours, theirs = (json.loads(next((tmp_path / f).rglob("*.json")).read_text()) for f in ("ours", "theirs"))
    assert set(ours) == set(theirs) and ours["function_id"] == theirs["function_id"]
    for mine, other in zip(ours["scenarios"][0]["runs"], theirs["scenarios"][0]["runs"], strict=True):
        assert mine["evals"] == other["evals"] and mine["best"]["evals"] == other["best"]["evals"]
        assert mine["best"]["y"] == pytest.approx(other["best"]["y"])
    assert re.fullmatch(r"data_f\d+_.*/IOHprofiler_f\d+_DIM\d+\.dat", ours["scenarios"][0]["path"])
    assert (tmp_path / "ours" / safe_name(name) / ours["scenarios"][0]["path"]).is_file()


def test_a_table_is_the_same_as_csv_and_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = Table(("name", "loss", "runs"), [("=1+1", 0.1 + 0.2, 3), ("b", None, None)])
    table.write_csv(tmp_path / "t.csv")
    table.write_parquet(tmp_path / "t.parquet")
    assert (tmp_path / "t.csv").read_text() == "name,loss,runs\n'=1+1,0.30000000000000004,3\nb,,\n"
    read_back = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert [tuple(row.values()) for row in read_back] == table.rows


def test_study_functions_are_found_by_name():
    assert lp.study.read is read and lp.study.write_report is write_report
    with pytest.raises(AttributeError):
        _ = lp.study.reports
    assert np.isfinite(function_id("x"))
