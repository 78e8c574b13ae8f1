"""The examples are scripts that people copy: each runs in a process of its own, and says what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", ["nevergrad_script.py", "pymoo_script.py", "nevergrad_executor.py"])
def test_framework_scripts_improve_on_the_pretrained_model(script, tmp_path):
    before, after = map(float, re.findall(r": +([\d.]+) nats per token", run(script, cwd=tmp_path, HF_HUB_OFFLINE="1")))
    assert after < before


def test_the_ray_script_is_the_same_run_as_one_process(tmp_path):
    pytest.importorskip("ray")
    output = run("ray_script.py", cwd=tmp_path, HF_HUB_OFFLINE="1")
    before, after, _ = map(float, re.findall(r": +([\d.]+) nats per token", output))
    assert after < before and "the same run: True" in output


def test_a_pymoo_script_changes_its_problem_and_nothing_else():
    for text in ((EXAMPLES / "pymoo_script.py").read_text(), (EXAMPLES.parent / "README.md").read_text()):
        assert 'minimize(problem, PSO(), ("n_eval", 300), seed=1)' in text


def test_own_data_runs_on_its_small_file(tmp_path):
    output = run("own_data.py", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert "pretrained: held-out loss" in output
    assert "found: held-out loss" in output


@pytest.mark.parametrize(("cost", "budget", "least"), [("drift", 1200, 10), ("forgetting", 200, 4)])
def test_front_draws_a_front_of_each_optimizer(tmp_path, cost, budget, least):
    output = run("front.py", "tiny-gpt2", cost, budget, cwd=tmp_path, HF_HUB_OFFLINE="1")
    points = re.findall(r"^(?:NSGA-II|DE) .*: (\d+) points, loss from ([\d.]+) to", output, re.MULTILINE)
    (pretrained,) = re.findall(r"pretrained model: loss ([\d.]+), " + cost + " 0", output)
    assert len(points) == 2
    for count, loss in points:
        assert int(count) >= least
        assert float(loss) < float(pretrained)
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_front_runs_on_a_real_model(tmp_path, smollm2, monkeypatch, capsys):
    import runpy

    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "front.py"))["main"]("smollm2-135m", evaluations=48)
    assert "pretrained model: loss" in capsys.readouterr().out
    assert (tmp_path / "front.png").is_file()


def test_a_mix_of_adapters_is_better_than_each_and_says_how_sure_that_is(tmp_path):
    output = run("mix_adapters.py", cwd=tmp_path, HF_HUB_OFFLINE="1")
    number = r"([+-]?[\d.]+)"
    losses = dict(re.findall(rf"^ *([\w -]+): {number} nats per token, held out", output, re.MULTILINE))
    assert set(losses) == {"pretrained", "sum", "average", "mix found", "prose-1", "prose-2", "prose-3", "reviews"}
    assert all(float(losses["mix found"]) < float(loss) for name, loss in losses.items() if name != "mix found")
    gains = re.findall(rf"gain {number} in \[{number}, {number}\], (no gain|gain|loss)\)", output)
    assert len(gains) == len(losses) - 1
    for gain, low, high, verdict in gains:
        assert float(low) < float(gain) < float(high)
        assert verdict == ("gain" if float(low) > 0 else "loss" if float(high) < 0 else "no gain")
    assert gains[-1][3] == "gain"  # on prose that no search has seen
    assert re.search(r"^mix found against the average, held out: .*, (no gain|gain|loss)$", output, re.MULTILINE)


def test_demo_runs_every_optimizer_it_names(tmp_path, smollm2):
    output = run("demo.py", "--budget", "2", "--out", "demo", cwd=tmp_path)
    import runpy

    for name in runpy.run_path(str(EXAMPLES / "demo.py"))["OPTIMIZERS"]:
        assert name in output
    assert (tmp_path / "demo" / "convergence.png").is_file()
    assert "failed" not in output


def test_sst2_example_runs_on_files_of_its_form(tmp_path, smollm2, capsys):
    import csv
    import runpy

    rows = list(csv.DictReader((EXAMPLES.parent / "llm_problem" / "data" / "sentiment.csv").open(encoding="utf-8")))
    for name, count in (("train", 60), ("dev", 8), ("test", 8)):
        with open(tmp_path / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([row["text"], row["label"]] for row in rows[:count])
    runpy.run_path(str(EXAMPLES / "sst2_cma.py"))["main"](tmp_path, budget=4, seeds=1)
    output = capsys.readouterr().out
    assert "d = 256" in output and "4 evaluations" in output and "median: best search loss" in output


NUMBER = r"([+-]?[\d.]+(?:e[+-]?\d+)?)"


@pytest.mark.parametrize(
    ("script", "budget", "metrics", "pictures", "few"),  # few: fewer test examples than a verdict is given of
    [
        ("sst2_search.py", 60, 6, ["sst2-search"], False),  # accuracy and loss of three searches
        (
            "translate_multi30k.py",
            24,
            6,
            ["translate-de", "translate-fr"],
            True,
        ),  # loss, chrF and BLEU of two languages
        ("answer_xquad.py", 24, 3, ["answer-xquad"], True),
        ("shakespeare.py", 40, 1, ["shakespeare"], False),
        ("own_scorer.py", 12, 1, ["own-scorer"], False),
    ],
)
def test_gains_come_with_their_intervals_and_a_picture(
    tmp_path, monkeypatch, capsys, script, budget, metrics, pictures, few
):
    import runpy

    if "translate" in script:
        pytest.importorskip("sacrebleu")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, "--budget", str(budget)])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")  # in this process: importing takes longer than it
    output = capsys.readouterr().out
    found = re.findall(
        # what a signature of the metric follows, where there are several ways to make it
        rf"{NUMBER} → {NUMBER}: {NUMBER}, 95% in \[{NUMBER}, {NUMBER}\], (no gain|gain|loss)(?: \((.+)\))?$",
        output,
        re.MULTILINE,
    )
    assert len(found) == metrics
    for before, after, change, low, high, verdict, _ in found:
        assert float(after) - float(before) == pytest.approx(float(change), abs=2e-3 * max(1, abs(float(before))))
        assert float(low) <= float(change) <= float(high)
        assert (verdict == "no gain") == (few or float(low) <= 0 <= float(high))
    for name in pictures:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_scorer_of_the_example_is_the_formula(capsys):
    import runpy

    names = runpy.run_path(str(EXAMPLES / "own_scorer.py"))
    # 12 words, 2 sentences, 14 syllables (wa-ter, ri-vers): 0.39 · 6 + 11.8 · 14/12 - 15.59
    text = "The water goes up in the air. Then it falls in rivers."
    assert names["grade"](text) == pytest.approx(0.39 * 6 + 11.8 * 14 / 12 - 15.59)
    plain, hard, same, short = names["school_years"](
        [""] * 4, [text, "Photosynthetic organisms synthesise carbohydrates. " * 3, "a b c " * 5, "Yes."], None
    )
    assert plain < min(hard, same, short)
    assert short >= 9 and same >= 5


def test_an_adapter_is_chosen_on_dev_and_used_by_peft_alone(tmp_path):
    pytest.importorskip("peft")
    output = run("adapter_in_peft.py", "tiny-gpt2", cwd=tmp_path, HF_HUB_OFFLINE="1")
    dev = dict(re.findall(r"^(.+): search loss [\d.]+ -> [\d.]+, dev loss [\d.]+ -> ([\d.]+)$", output, re.MULTILINE))
    assert len(dev) == 3
    (chosen,) = re.findall(r"^lowest on dev, and exported: (.+)$", output, re.MULTILINE)
    assert dev[chosen] == min(dev.values(), key=float)
    (before, after), (gain, low, high), (here, there) = (
        map(float, re.search(pattern, output).groups())
        for pattern in (
            r"240 sentences: loss ([\d.]+) -> ([\d.]+)",
            r"gain (-?[\d.]+) nats a sentence, .* in \[(-?[\d.]+), (-?[\d.]+)\]",
            r"the problem itself says ([\d.]+), PEFT ([\d.]+)",
        )
    )
    assert abs(here - there) <= 1e-5
    assert low < gain < high and gain == pytest.approx(before - after, abs=2e-3)


@pytest.mark.parametrize(
    ("name", "optimizers", "problems", "seeds"), [("study_tiny", 10, 12, 15), ("study_smollm2", 6, 3, 5)]
)
def test_studies_are_as_large_as_they_say_and_name_what_there_is(name, optimizers, problems, seeds):
    from llm_problem.study import Study
    from llm_problem_adapters import replays
    from llm_problem_adapters.registry import configure

    study = Study.from_toml(EXAMPLES / f"{name}.toml")
    assert len(study.optimizers) >= optimizers and len(study.problems) >= problems
    assert len(study.seeds) >= seeds and study.budget >= 1_000
    for optimizer in study.optimizers:
        configure(optimizer.name, **optimizer.options)
        assert replays(optimizer.name)
