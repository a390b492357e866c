"""Tables for the terminal and for notebooks."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from meta_keras import checks
from meta_keras.report.scores import Score


class Table:
    """Rows as a table: aligned text when it is printed, and a Markdown table when a notebook displays it.

    rows: one dictionary {column: cell} per row, all with the same columns. A `Score` is a cell, too.

    >>> print(Table([{"learner": "chance", "accuracy": 0.2}]))
    learner  accuracy
    chance      0.200
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        listed = isinstance(rows, list | tuple) and len(rows) > 0
        if not listed or not all(isinstance(row, Mapping) and len(row) for row in rows):
            raise ValueError(
                "rows must be a list of dictionaries {column: cell}, at least one and none of them empty; "
                f"got {checks.shown(rows)}."
            )
        self.columns = list(rows[0])
        for row in rows:
            checks.names(columns=list(row))
            if list(row) != self.columns:
                raise ValueError(f"Every row must have the columns {self.columns}; one has {list(row)}.")
        self.cells = [[_cell(row[column]) for column in self.columns] for row in rows]
        self.numeric = [isinstance(rows[0][column], (Real, Score)) for column in self.columns]

    def __str__(self) -> str:
        lines = [self.columns, *self.cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for cell, width, number in zip(line, widths, self.numeric, strict=True)
            ).rstrip()
            for line in lines
        )

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        rule = ["---:" if number else "---" for number in self.numeric]
        lines = [[_escaped(cell) for cell in line] for line in [self.columns, rule, *self.cells]]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, Score):
        return f"{value.mean:.3f} ± {value.interval:.3f}"
    return f"{value:.3f}" if isinstance(value, Real) and not isinstance(value, Integral) else str(value)


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|").replace("\n", "<br>")
