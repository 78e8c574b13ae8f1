"""Peak memory is what was really in use, in a process of its own."""

import numpy as np
import pytest

from llm_problem.benchmarks import memory
from llm_problem.benchmarks.memory_probe import PLAIN_PADDED, PLAIN_SINGLE, PeakMeter
from llm_problem.benchmarks.settings import Settings

SETTINGS = Settings(model="tiny-gpt2", layers=(1,), sentences=4, population=3)


def test_meter_sees_what_came_and_went():
    meter = PeakMeter()
    if not meter.how.startswith("VmHWM"):
        pytest.skip("the high-water mark cannot be reset here")
    before = meter.now()
    meter.reset()
    np.ones(2**23)  # 64 MB
    peak = meter.peak()
    assert 60 < peak - before < 80
    assert meter.now() - before < 20
    meter.reset()
    assert meter.peak() - before < 20


def test_meter_says_so_where_the_mark_cannot_be_reset(monkeypatch):
    monkeypatch.setattr(PeakMeter, "_resets", lambda self: False)
    meter = PeakMeter()
    meter.reset()
    assert meter.how.startswith("ru_maxrss") and meter.peak() >= meter.now() - 1


def test_a_contestant_is_measured_in_a_process_of_its_own():
    row = memory._measure(PLAIN_PADDED, 1, SETTINGS)
    assert row["peak"] == pytest.approx(row["held"] + row["working"])
    assert row["model"] > 50 and row["card"] is None
    if row["how"].startswith("VmHWM"):
        assert 0 < row["working"] < 100


def test_table_has_every_contestant_and_multiples_of_plain_inference(monkeypatch):
    def measured(contestant, layers, settings):
        working = {PLAIN_PADDED: 10.0, PLAIN_SINGLE: 1.0, "ours": 11.0}.get(contestant, 50.0)
        row = {"working": working, "held": 3.0, "peak": working + 3, "first_peak": 20.0, "model": 700.0}
        card = {"caches_mb": 3} if contestant == "ours" else None
        return {"left_out": "no PEFT"} if contestant == "expert" else {**row, "how": "VmHWM, reset", "card": card}

    monkeypatch.setattr(memory, "_measure", measured)
    (sheet,) = memory.memory(SETTINGS).sheets
    assert [(row[0], row[-1]) for row in sheet.rows] == [
        (PLAIN_PADDED, "1.00"),
        (PLAIN_SINGLE, "0.10"),
        ("document's loop", "5.00"),
        ("ours", "1.10"),
        ("ours, in 3s", "5.00"),
    ]
    assert "expert's loop left out: no PEFT" in sheet.notes
    assert any('"caches_mb": 3' in note for note in sheet.notes)


def test_a_process_that_fails_is_reported_with_its_reason():
    with pytest.raises(RuntimeError, match="no such contestant"):
        memory._measure("nobody", 1, SETTINGS)
