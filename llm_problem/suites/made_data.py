"""Write the embedded data that is made from rules: `python -m llm_problem.suites.made_data [DIRECTORY]`.

agreement.csv: subjects whose number the verb must follow past a noun of the other number ("The keys to the old
cabinet" → are), the probe of T. Linzen, E. Dupoux & Y. Goldberg, *Assessing the ability of LSTMs to learn
syntax-sensitive dependencies*, TACL 4, 2016. Subjects of the three splits are different nouns.

continuations.csv: a sentence of the embedded prose, how the next one begins, and three beginnings from elsewhere in it,
after R. Zellers et al., *SWAG*, EMNLP 2018. The splits are different sections.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from llm_problem.tasks import Data

SUBJECTS = {
    "search": (
        "key keys", "letter letters", "teacher teachers", "window windows", "farmer farmers", "picture pictures",
        "road roads", "doctor doctors", "garden gardens", "song songs", "lamp lamps", "driver drivers",
    ),
    "dev": (
        "bottle bottles", "singer singers", "bridge bridges", "ticket tickets", "neighbour neighbours", "tree trees",
    ),
    "test": (
        "book books", "pilot pilots", "boat boats", "painter painters", "bell bells", "story stories",
        "student students", "wheel wheels", "guest guests", "river rivers", "report reports", "clock clocks",
    ),
}  # fmt: skip
LINKS = ("near", "behind", "next to", "from", "with", "beside")
ATTRACTORS = (
    "cabinet cabinets", "house houses", "manager managers", "hill hills", "child children", "engine engines",
    "shop shops", "field fields",
)  # fmt: skip
ADJECTIVES = ("old", "small", "red", "quiet", "new", "tall")
WORDS = 6  # of a beginning
CHOICES = ("a", "b", "c", "d")
LONGEST = 24  # words of a sentence that is to be continued


def agreement() -> str:
    """The text of agreement.csv: for each noun, both numbers with an attractor of the same and of the other one."""
    rows: list[tuple[str, str, str]] = []
    for split, subjects in SUBJECTS.items():
        rng = np.random.default_rng([11, len(rows)])
        for subject in subjects:
            for number in (0, 1):
                for other in (number, 1 - number):
                    for _ in range(2):
                        attractor = rng.choice(ATTRACTORS).split()[other]
                        words = subject.split()[number], rng.choice(LINKS), rng.choice(ADJECTIVES), attractor
                        text = "The {} {} the {} {}".format(*words)
                        rows.append((text, ("singular", "plural")[number], split))
    return _csv(("text", "label", "split"), list(dict.fromkeys(rows)))


def continuations() -> str:
    """The text of continuations.csv."""
    text = Data.of("embedded:prose").text()
    sections = [part for part in re.split(r"\n\d+\. [^\n]+\n", text) if part.strip()]
    pairs: list[tuple[str, str, int]] = []
    for number, section in enumerate(sections):
        for paragraph in section.split("\n\n"):
            sentences = re.findall(r"[^.!?]+[.!?]", " ".join(paragraph.split()))
            for one, two in pairwise(sentence.strip() for sentence in sentences):
                if min(len(one.split()), len(two.split())) > WORDS:
                    pairs.append((one, " ".join(two.split()[:WORDS]), number))
    rng, rows = np.random.default_rng(12), []
    for sentence, beginning, number in pairs:
        if len(sentence.split()) > LONGEST:
            continue
        elsewhere = [other for _, other, section in pairs if section != number]
        choices = [beginning, *(elsewhere[k] for k in rng.choice(len(elsewhere), len(CHOICES) - 1, replace=False))]
        order = rng.permutation(len(CHOICES))
        split = "test" if number % 4 == 1 else "dev" if number % 4 == 3 else "search"
        rows.append((sentence, *(choices[k] for k in order), int(np.argmin(order)), split))
    return _csv(("text", *CHOICES, "answer", "split"), rows)


MADE = {"agreement.csv": agreement, "continuations.csv": continuations}


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    folder = Path(words[0]) if words else Path(__file__).parents[1] / "data"
    for name, make in MADE.items():
        (folder / name).write_text(make(), encoding="utf-8", newline="\n")
        print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
