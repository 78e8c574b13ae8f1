"""Cards: what is published of the named problems is what comes out again, for a sample of them."""

import shlex

import numpy as np
import pytest

import llm_problem as lp
from llm_problem.cli import main
from llm_problem.suites.page import page
from llm_problem_adapters import minimize
from llm_problem_adapters.cards import ROOT, facts

CARDS = lp.suites.all_cards()["problems"]
ENTRIES = {entry.name: entry for name in ("tiny", "real") for entry in lp.suites.get(name).entries}
# No singular vectors in their bases, which differ between machines; few milliseconds.
SAMPLE = ["tiny-bert-agreement-random-d10-v1", "tiny-bert-agreement-vera-d48-v1"]


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_of_a_problem_that_there_is_and_does_not_contradict_itself(name):
    card, entry = CARDS[name], ENTRIES[name]
    assert card["dimension"] == entry.dimension and card["model"] == entry.spec.model
    assert card["f0"] > card["reference"]["loss"] >= card["best"]["loss"]
    budgets = sorted(map(int, card["targets"]))
    losses = [card["targets"][str(budget)] for budget in budgets]
    assert losses == sorted(losses, reverse=True) and budgets[-1] == card["reference"]["budget"]
    assert all(len(card[key]) == 64 for key in ("weights_sha256", "tokens_sha256", "basis_sha256", "fingerprint"))
    assert card["licence"] and card["milliseconds"] > 0
    for run in ("reference", "best", *(["gradient"] if "gradient" in card else [])):
        program, command, id, *_ = shlex.split(card[run]["command"])
        assert (program, command, id) == ("llm-problem", "run", name)


@pytest.mark.parametrize("name", SAMPLE)
def test_what_a_card_says_of_a_problem_is_so(name):
    found, card = facts(ENTRIES[name], ENTRIES[name].make()), CARDS[name]
    assert found.pop("f0") == pytest.approx(card["f0"], abs=1e-5)
    for key, value in found.items():
        assert card[key] == value, key


def test_targets_are_the_reference_runs_medians():
    name = SAMPLE[0]
    problem, card = ENTRIES[name].make(), CARDS[name]
    runs = [minimize(problem, card["reference"]["optimizer"], 51, seed=seed) for seed in card["reference"]["seeds"]]
    for mark in (10, 20, 50):  # the last evaluation of a run is the recommended point's
        median = np.median([run.losses[:mark].min() for run in runs])
        assert median == pytest.approx(card["targets"][str(mark)], abs=1e-4)


def test_the_page_is_made_from_the_cards():
    assert (ROOT / "docs" / "problems.md").read_text(encoding="utf-8") == page(lp.suites.all_cards())


def test_a_card_is_the_callers_own():
    lp.suites.card(SAMPLE[0])["f0"] = 0
    assert lp.suites.card(SAMPLE[0])["f0"] == CARDS[SAMPLE[0]]["f0"]


def test_a_card_is_asked_for_by_the_name_of_a_problem():
    assert lp.suites.card(f"{SAMPLE[0]}@0") == CARDS[SAMPLE[0]]
    assert lp.suites.card(f"{SAMPLE[0]}@1") is None
    with pytest.raises(ValueError, match=f"did you mean .*{SAMPLE[0]}"):
        lp.suites.card(SAMPLE[0].replace("random", "randon"))


def test_every_named_problem_has_one():
    assert set(CARDS) == {name for name, entry in ENTRIES.items() if not entry.spec.instance}


def test_the_command_line_shows_them(capsys):
    assert main(["list", "--suite", "tiny", "tiny-bert-agreement-*"]) == 0
    assert capsys.readouterr().out.split() == [f"{name}{k}" for name in SAMPLE for k in ("", "@1", "@2")]
    assert main(["list", "--long", "tiny-bert-agreement-random*"]) == 0
    assert f"{CARDS[SAMPLE[0]]['best']['loss']:.4f}" in capsys.readouterr().out
    assert main(["show", SAMPLE[0]]) == 0
    out = capsys.readouterr().out
    assert out.count("weights sha256") == out.count("targets ") == 1 and "{" not in out[out.index("targets") :]
    assert CARDS[SAMPLE[0]]["best"]["command"] in " ".join(out.split()) and CARDS[SAMPLE[0]]["weights_sha256"] in out
