"""Every draw has a named stream of its own: the same seed never gives two things the same numbers."""

import re
from collections import Counter

from tests.documents import ROOT

# A generator that is not a `SeedSequence` of a seed and a stream, and why it need not be.
FREE = {
    "llm_problem/benchmarks",  # points that are only timed
    "llm_problem/seconds.py",
    "llm_problem/doctor.py",
    "llm_problem/models/training",  # one program, one seed: the recipe of the bundled models
    "llm_problem/suites/made_data.py",  # one rule, one seed: the data sets of the package
    "llm_problem/pymoo_problem.py",  # pymoo hands over its own
    "llm_problem/testing",
}


def sources():
    for path in sorted((ROOT / "llm_problem").rglob("*.py")):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def test_no_two_streams_have_one_number():
    streams = [
        int(number, 16) for _, text in sources() for number in re.findall(r"^_[A-Z]+ = (0x[0-9A-F]+)  #", text, re.M)
    ]
    assert len(streams) > 12 and 0 not in streams
    assert max(Counter(streams).values()) == 1


def test_numbers_are_drawn_from_a_seed_and_a_stream():
    for name, text in sources():
        if not any(name.startswith(free) for free in FREE):
            assert not re.search(r"default_rng\(|np\.random\.(seed|rand|normal|RandomState)\b", text), name
            for words in re.findall(r"SeedSequence\(\[(.*?)\]\)", text):
                assert "," in words, f"{name}: {words} has no stream"
