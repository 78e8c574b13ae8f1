"""The Python blocks of a Markdown page, which run as they stand: what the tests of the README and of docs share."""

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
