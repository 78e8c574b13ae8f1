"""`llm-problem export`: the point of a run comes home with the loss that the run recorded, or nothing is written."""

import json
import shutil
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import llm_problem as lp
from llm_problem.cli import main
from llm_problem.export.run_folder import export_run
from llm_problem.models import load_model
from llm_problem.models.quiet import quiet_transformers

ID = "tiny-gpt2-sentiment-lora-xs-d128-v1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two optimizers, written once."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["run", ID, "--optimizer", "cma", "random-search", "--budget", "30", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(finished, tmp_path / "run")


def change(path, edit):
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def row_of(run, optimizer):
    return next(
        row for row in json.loads((run / "result.json").read_text())["results"] if row["optimizer"] == optimizer
    )


def loss_of(model):
    """The problem's loss of another model as it is."""
    spec = lp.get_spec(ID)
    problem = lp.Problem(model, spec.task, lp.subspaces.LoRAXS(1, layers=1), evaluator="serial")
    return problem(problem.x0)


def test_the_best_optimizers_point_comes_home_as_an_adapter(run, capsys):
    peft = pytest.importorskip("peft")
    change(run / "config.json", lambda config: config.update(command=["__main__.py", "run", ID, "--out", "a `b"]))
    assert main(["export", str(run)]) == 0
    rows = {name: row_of(run, name) for name in ("cma", "random-search")}
    best = min(rows, key=lambda name: rows[name]["dev"]["loss"])
    loss = rows[best]["loss"]
    assert capsys.readouterr().out.splitlines() == [
        f"optimizer: {best} (lowest loss on the dev split of 2: {rows[best]['dev']['loss']:.6f})",
        "point: recommended",
        f"adapter: {run / f'adapter-{best}'}",
    ]
    base = load_model("tiny-gpt2")
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = type(base.model).from_pretrained(base.source)
        adapted = peft.PeftModel.from_pretrained(model, run / f"adapter-{best}").merge_and_unload()
    assert loss_of((adapted, base.tokenizer)) == pytest.approx(loss, abs=1e-5)
    card = (run / f"adapter-{best}" / "README.md").read_text()
    for line in (
        f"- optimizer: `{best}`",
        "- point: `recommended by the optimizer`",
        "- budget: `30`",
        "- seed: `0`",
        f"- command: `` python -m llm_problem run {ID} --out 'a `b' ``",
    ):
        assert f"\n{line}" in card, line
    before = json.loads((run / "result.json").read_text())["pretrained"]
    for split in ("dev", "test"):
        assert f"\n| {split} | loss | {before[split]['loss']:.6g} | {rows[best][split]['loss']:.6g} |\n" in card


def test_the_best_point_seen_comes_home_as_a_whole_model(run, tmp_path, capsys):
    out = tmp_path / "deep" / "model"
    arguments = ["--optimizer", "random-search", "--merged", "--point", "best", "--out", str(out)]
    assert main(["export", str(run), *arguments]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "optimizer: random-search (as asked for)",
        "point: best",
        f"model: {out}",
    ]
    assert loss_of(str(out)) == pytest.approx(row_of(run, "random-search")["best_loss"], abs=1e-5)
    card = (out / "README.md").read_text()
    assert "| search | loss |" in card and "| dev |" not in card and "| test |" not in card  # of another point
    done = export_run(run, point="best")
    assert done.path == run / f"adapter-{done.optimizer}-best" and done.path.is_dir()


def change_dev(run, worse, losses):
    """Give the worse one on the search split the first dev metrics, the other one the second; returns the export."""

    def edit(result):
        for row in result["results"]:
            row["dev"] = losses[row["optimizer"] != worse]

    change(run / "result.json", edit)
    return export_run(run)


def test_dev_losses_decide_where_the_run_has_them_all(run):
    better, worse = sorted(("cma", "random-search"), key=lambda name: row_of(run, name)["loss"])
    done = change_dev(run, worse, [{"loss": 0.5}, {"loss": None}])  # the other's was not finite
    assert (done.optimizer, done.why) == (worse, "lowest loss on the dev split of 2: 0.500000")
    assert "| dev | loss |" in (done.path / "README.md").read_text()
    done = change_dev(run, worse, [{"loss": 0.5}, {}])  # as where a run was interrupted
    loss = f"{row_of(run, better)['loss']:.6f}"
    assert done.optimizer == better
    assert done.why == f"lowest loss on the search split of 2: {loss}; dev was not read for all of them"


def test_a_point_that_keeps_the_constraints_comes_before_one_that_does_not(run):
    _, worse = sorted(("cma", "random-search"), key=lambda name: row_of(run, name)["loss"])

    def edit(result):
        for row in result["results"]:
            row |= {"feasible": row["optimizer"] == worse, "dev": None}

    change(run / "result.json", edit)
    assert export_run(run).optimizer == worse


def refused(arguments, message, capsys, code=2):
    assert main(["export", *map(str, arguments)]) == code
    out, error = capsys.readouterr()
    assert out == "" and message in error


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(run, tmp_path, capsys):
    before = sorted(path.name for path in run.iterdir())
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    refused([tmp_path / "empty"], "is no run folder: config.json", capsys)
    refused([tmp_path / "nowhere"], "is no run folder: config.json", capsys)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text("{}")
    refused([tmp_path / "study"], "is a study, which keeps no points: run the problem", capsys)
    refused(
        [run, "--optimizer", "zork"], "optimizer 'zork' has no point in this run: there are cma, random-search", capsys
    )
    refused([run, "--out", tmp_path / "taken"], "exists already and is not overwritten", capsys)
    with pytest.raises(ValueError, match="point must be one of recommended, best, got 'last'"):
        export_run(run, point="last")
    assert sorted(path.name for path in run.iterdir()) == before
    assert not list((tmp_path / "taken").iterdir())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json is not JSON"),
        ("config.json", "[]", "config.json is not of a run"),
        ("result.json", '{"results": [1]}', "its results are no list"),
        ("result.json", '{"results": [{"optimizer": ["cma"]}]}', "its results are no list"),
        ("result.json", None, "has no result.json: no optimizer of this run has ended yet"),
        ("points.safetensors", None, "has no points.safetensors"),
        ("points.safetensors", "half a file", "points.safetensors cannot be read"),
    ],
)
def test_broken_files_are_named(name, content, message, run, capsys):
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    refused([run], message, capsys)


def test_a_problem_that_has_changed_is_refused(run, capsys):
    points = load_file(run / "points.safetensors")
    save_file({name: point * 1.5 for name, point in points.items()}, run / "points.safetensors")
    refused([run, "--optimizer", "cma"], "here and was", capsys)  # as another basis would show
    change(run / "config.json", lambda config: config["problem"].update(bound=4.0))
    refused([run, "--optimizer", "cma"], "its model, data or settings have changed since", capsys)
    change(run / "config.json", lambda config: config["problem"].update(seed=1))
    refused([run, "--optimizer", "cma"], "the search examples become other tokens", capsys)
    assert not list(run.glob("adapter*"))


def test_an_optimizer_that_failed_has_no_point(run, capsys):
    change(run / "result.json", lambda result: result["results"].append({"optimizer": "pymoo:DE", "error": "it broke"}))
    refused([run, "--optimizer", "pymoo:DE"], "has no point in this run (pymoo:DE failed: it broke)", capsys)
    save_file({"none": np.zeros(1)}, run / "points.safetensors")
    refused([run], "no optimizer of this run has found a point: pymoo:DE failed: it broke", capsys)


def test_a_subspace_without_an_adapter_names_the_option_that_works(tmp_path, capsys):
    run = tmp_path / "run"
    id = "tiny-gpt2-prose-random-d64-v1"
    assert main(["run", id, "--optimizer", "random-search", "--budget", "3", "--out", str(run)]) == 0
    capsys.readouterr()
    refused([run], "export --merged", capsys)
    assert main(["export", str(run), "--merged"]) == 0
    assert (run / "model-random-search" / "model.safetensors").is_file()
    assert not list(run.glob("adapter*")) and not list(run.glob(".*"))


def test_the_pretrained_model_is_called_so(run, capsys):
    points = load_file(run / "points.safetensors")
    problem = lp.make(ID)
    points["cma/x"] = problem.x0
    save_file(points, run / "points.safetensors")

    def edit(result):
        next(row for row in result["results"] if row["optimizer"] == "cma")["loss"] = problem(problem.x0)

    change(run / "result.json", edit)
    assert main(["export", str(run), "--optimizer", "cma"]) == 0
    said = "(as asked for; its point is x = 0, the pretrained model, which nothing that it tried has beaten)"
    assert said in capsys.readouterr().out
    card = (run / "adapter-cma" / "README.md").read_text(encoding="utf-8")
    assert "- point: `recommended by the optimizer: x = 0, the pretrained model`" in card
