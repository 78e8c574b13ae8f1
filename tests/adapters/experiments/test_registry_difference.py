"""The experiment over every optimizer there is: what works on a sphere works on a language model."""

from llm_problem_adapters import RandomSearch, minimize, nevergrad_optimizer
from llm_problem_adapters.experiments import registry_difference


def test_every_kind_of_optimizer_works_here_where_it_works_on_a_sphere(tmp_path, capsys):
    """Without `--quick` all of them are run."""
    file = tmp_path / "found.jsonl"
    assert registry_difference.main(["--quick", "--checks", "sphere", "problem", "minimize", "--out", str(file)]) == 0
    n = len(registry_difference.QUICK) + len(registry_difference.QUICK_OTHERS)
    printed = capsys.readouterr().out
    assert printed.count(f"{n} of {n} work") == 3, printed
    assert registry_difference.main(["--quick", "--checks", "sphere", "--out", str(file)]) == 0  # as it was found
    assert f"{n} of {n} work" in capsys.readouterr().out


def test_what_does_not_keep_the_budget_the_bounds_or_the_start_is_told(monkeypatch):
    class Wrong(RandomSearch):
        def _recommend(self):
            return self.best_x + 9

    monkeypatch.setattr(registry_difference, "minimize", lambda *a, **k: minimize(a[0], Wrong(), *a[2:], **k))
    assert "outside the bounds" in registry_difference.attempt("minimize", "random-search")
    monkeypatch.setattr(registry_difference, "minimize", lambda *a, **k: minimize(*a[:2], 7, **k))
    assert "7 evaluations instead of 40" in registry_difference.attempt("minimize", "random-search")
    monkeypatch.setattr(
        registry_difference, "minimize", lambda *a, **k: minimize(*a, **{**k, "start_at_x0": not k["start_at_x0"]})
    )
    assert "with start_at_x0=True the first point was" in registry_difference.attempt("minimize", "random-search")


def test_what_works_on_a_sphere_only_is_told():
    found = {"sphere": {"a": "", "b": "E: x", "c": "", "d": ""}, "problem": {"a": "", "c": "E: y", "d": ""}}
    assert registry_difference.difference(found) == ["c"]
    assert "work on a sphere and not on tiny-gpt2-prose-lora-xs-d32-v1: c" in registry_difference.report(found)
    found["minimize"] = {"d": "BrokenPromiseError: x: [1 2]"}
    assert registry_difference.difference(found) == ["c", "d"]
    printed = registry_difference.report(found, {"smac": ["SMAC3"]})
    assert "in minimize: BrokenPromiseError: x (1): d" in printed and "smac: SMAC3" in printed


def test_what_is_not_installed_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(nevergrad_optimizer, "missing_package", {"SMAC3": "smac", "DE": "x"}.get)
    assert registry_difference.not_installed(["nevergrad:S*"]) == {"smac": ["SMAC3"]}
