"""Where the arrows of the map run: between the boxes, so that none seems to lead to a chapter that it only passes.

An arrow leaves a box at the bottom, and runs along the row, through a gap between two columns, and along another row.
All arrows of one chapter share these lines, and the arrows of different chapters have different lines, called lanes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT, GAP = 114, 54, 16
LANE, MARGIN = 5, 10
APART = 12  # between two arrows that end at the same side of a box


class Cell(NamedTuple):
    """The row and the column of a box."""

    row: int
    column: int

    @property
    def center(self) -> float:
        return self.column * (WIDTH + GAP) + WIDTH / 2


class Line(NamedTuple):
    """A place for lanes: `above` or `below` the boxes of a row, or in the `gap` left of a column."""

    kind: str
    number: int


class Routes:
    """The lanes of the arrows between boxes.

    >>> routes = Routes({"01": Cell(0, 0), "02": Cell(0, 1), "03": Cell(1, 0)}, [("01", "02"), ("01", "03")])
    >>> routes.points("01", "03", [0, 100])  # down, to the gap, down, and back
    [(57.0, 54), (57.0, 64), (122.0, 64), (122.0, 90), (57.0, 90), (57.0, 100)]
    """

    def __init__(self, cells: Mapping[str, Cell], arrows: Iterable[tuple[str, str]]) -> None:
        self.cells, self.arrows = cells, list(arrows)
        self._gaps = {source: self._gap(source) for source, _ in self.arrows}
        spans: dict[Line, dict[str, list[float]]] = {}
        for source, target in self.arrows:
            for line, ends in self._spans(source, target).items():
                spans.setdefault(line, {}).setdefault(source, []).extend(ends)
        self._lanes = {line: lanes(found) for line, found in spans.items()}

    def room(self, kind: str, row: int) -> float:
        """The height of the lanes `above` or `below` a row."""
        return MARGIN + LANE * self._count(Line(kind, row))

    def points(self, source: str, target: str, tops: Sequence[float]) -> list[tuple[float, float]]:
        """The corners of an arrow. `tops` is where the boxes of each row begin."""
        here, there = self.cells[source], self.cells[target]
        end = self._entry(source, target)
        leaves = self._y(Line("below", here.row), source, tops)
        arrives = self._y(self._arrival(source, target), source, tops)
        tip = tops[there.row] + (0 if there.row > here.row else HEIGHT)
        gap = Line("gap", self._gaps[source])
        x = end if here.row == there.row else self._gap_center(gap.number) + self._shift(gap, source)
        corners = [(here.center, tops[here.row] + HEIGHT), (here.center, leaves), (x, leaves), (x, arrives)]
        return list(dict.fromkeys([*corners, (end, arrives), (end, tip)]))

    def _gap(self, source: str) -> int:
        """The gap beside a box, left or right of it, that is nearer to the chapters which build on it."""
        ends = [self.cells[target].center for start, target in self.arrows if start == source]
        column = self.cells[source].column
        return min((column + 1, column), key=lambda gap: sum(abs(end - self._gap_center(gap)) for end in ends))

    def _gap_center(self, number: int) -> float:
        return number * (WIDTH + GAP) - GAP / 2

    def _arrival(self, source: str, target: str) -> Line:
        """Arrows to a later row end at the top of a box, and all others at the bottom."""
        row = self.cells[target].row
        return Line("above" if row > self.cells[source].row else "below", row)

    def _spans(self, source: str, target: str) -> dict[Line, list[float]]:
        """The lines that an arrow uses, and from where to where: in x, or in rows for a gap."""
        start, arrival = self.cells[source], self._arrival(source, target)
        if start.row == self.cells[target].row:
            return {arrival: [start.center, self._entry(source, target)]}
        gap = Line("gap", self._gaps[source])
        x = self._gap_center(gap.number)
        last = arrival.number + (0.25 if arrival.kind == "below" else -0.25)
        return {
            Line("below", start.row): [start.center, x],
            gap: [start.row + 0.25, last],
            arrival: [x, self._entry(source, target)],
        }

    def _entry(self, source: str, target: str) -> float:
        """Where on the border of the box `target` an arrow ends, in x."""
        side, center = self._arrival(source, target), self.cells[target].center
        rivals = [one for one, other in self.arrows if other == target and self._arrival(one, target) == side]
        if side.kind == "above":
            return center + APART * (rivals.index(source) - (len(rivals) - 1) / 2)
        left = self.cells[source].center < center  # the middle is for the arrows that leave
        rivals = [one for one in rivals if (self.cells[one].center < center) == left]
        return center + (-1 if left else 1) * (WIDTH / 3 - APART * rivals.index(source))

    def _count(self, line: Line) -> int:
        return 1 + max(self._lanes.get(line, {}).values(), default=-1)

    def _shift(self, line: Line, source: str) -> float:
        return LANE * (self._lanes[line][source] - (self._count(line) - 1) / 2)

    def _y(self, line: Line, source: str, tops: Sequence[float]) -> float:
        away = MARGIN + LANE * self._lanes[line][source]
        return tops[line.number] + (-away if line.kind == "above" else HEIGHT + away)


def lanes(spans: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """A lane for each span, so that spans in the same lane do not touch.

    >>> lanes({"a": [0, 2], "b": [1, 3], "c": [4, 5]})
    {'a': 0, 'b': 1, 'c': 0}
    """
    found: dict[str, int] = {}
    ends: list[float] = []
    for name, span in sorted(spans.items(), key=lambda item: min(item[1])):
        lane = next((number for number, end in enumerate(ends) if end < min(span)), len(ends))
        ends[lane : lane + 1] = [max(span)]
        found[name] = lane
    return found
