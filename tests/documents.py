"""What tests read of the pages: Python blocks, which run as they stand, and the promises with the tests of each."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(page):
    """The source of each Python block."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def run_block(page, number):
    """Run one, as a script in the current folder."""
    code = compile(blocks(page)[number], f"{page.name}, block {number + 1}", "exec")
    exec(code, {"__name__": "__main__"})


def promises():
    """line of docs/promises.md → the (file below tests, function) pairs that it names."""
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    short = dict(re.findall(r"`(\w+)` is\s+`tests/([\w/.]+)`", text))
    lines = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", text, flags=re.M)
    return {
        int(number): [(short.get(file, file), name) for file, name in re.findall(r"`([\w/.]+)::(test_\w+)`", tests)]
        for number, tests in lines
    }
