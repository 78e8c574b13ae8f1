"""A record as a table for other programs."""

from __future__ import annotations

import csv
import os

from llm_problem.harmless import plain_cell
from llm_problem.new_folder import new_file
from llm_problem.records.store import RunRecord

HEADER = ("number", "batch", "role", "status", "loss", "seconds", "note")


def write_csv(record: str | os.PathLike[str], path: str | os.PathLike[str], *, points: bool = False) -> int:
    """Write a row for each evaluation of a record into a new CSV file; numbers read back to the bit.

    Args:
        record: the record; it is checked and not changed.
        path: of the new file.
        points: a column for each coordinate, too: x1, x2, …

    Returns:
        How many rows there are.

    Raises:
        FileExistsError: there is something at `path`.
        ValueError: points are wanted, and the record keeps none.
        RecordError: see `RunRecord.open`.
    """
    with RunRecord.read(record) as source, new_file(path) as draft:
        if points and source.identity.get("points") is False:
            raise ValueError(f"{record} keeps hashes of points only: run it again from its seed for the points")
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            dimension = int(source.identity["dimension"]) if points else 0
            writer.writerow((*HEADER, *(f"x{number + 1}" for number in range(dimension))))
            x = [""] * dimension
            for row in source.rows():
                if points and row.x is not None:  # else that of the row before
                    x = [repr(value) for value in row.x.tolist()]
                numbers = (row.number, row.batch, row.role, row.status, repr(row.loss), repr(row.seconds))
                writer.writerow((*numbers, plain_cell(row.note or ""), *x))
        return source.tail.rows
