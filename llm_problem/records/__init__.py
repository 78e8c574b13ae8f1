"""Records: every evaluation of a run in one SQLite file, from which the run goes on after whatever stopped it."""

from llm_problem.records.errors import (
    DamagedRecord,
    OtherRun,
    RecordError,
    RecordFull,
    RecordInUse,
    ReplayDeparts,
)
from llm_problem.records.export import write_csv
from llm_problem.records.rows import Row
from llm_problem.records.store import RunRecord, salvage

__all__ = [
    "DamagedRecord",
    "OtherRun",
    "RecordError",
    "RecordFull",
    "RecordInUse",
    "ReplayDeparts",
    "Row",
    "RunRecord",
    "salvage",
    "write_csv",
]
