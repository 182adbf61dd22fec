"""What the page of one object shows: its fields as a tree, and beside those of a run the fields of its source."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..support.comparison import SAME_PATH, Fields, copy_differences, expected_fields
from .attributes import Json
from .page_tables import natural

POINTS_DRAWN = 2000
LARGEST_DRAWN = 1e150
DEEPEST = 8
"""As many namespaces are shown one in the other; a longer path's rest is the name of the field."""

EQUAL = "equal"
MARKED = "equal, with the copy's own tags"
DIFFERENT = "different"
OWN = "the run's own"
TAG = "kept as a tag"
LEFT = "not copied"


@dataclass
class Line:
    """One field, and what stands beside it."""

    path: str
    own: Json | None
    source_path: str = ""
    source: Json | None = None
    mark: str = ""
    differences: list[str] = field(default_factory=list)

    @property
    def types(self) -> list[str]:
        """Of the field and of the source's; none where both are missing."""
        return [each["type"] for each in (self.own, self.source) if each is not None]

    @property
    def namespace(self) -> str:
        return "/".join(self.path.split("/")[:-1][:DEEPEST])

    @property
    def name(self) -> str:
        return self.path[len(self.namespace) :].lstrip("/")


@dataclass
class Namespace:
    path: str = ""
    lines: list[Line] = field(default_factory=list)
    namespaces: list[Namespace] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def all_lines(self) -> Iterator[Line]:
        yield from self.lines
        for each in self.namespaces:
            yield from each.all_lines()

    def count(self, *marks: str) -> int:
        """How many fields have one of these marks; all fields if none is named."""
        return sum(not marks or line.mark in marks for line in self.all_lines())


# -- the fields, alone or beside those of the source --


def alone(fields: Fields) -> list[Line]:
    return [Line(path, found) for path, found in fields.items()]


def beside(run: Fields, source: Fields, sys_id: str, kind: str) -> list[Line]:
    """The fields of a run and of its source, whose ID and kind are given, with what is equal marked."""
    expected = expected_fields(source, kind, stage_as_tag=kind == "modelVersion" and "old_sys/stage" not in run)
    differences: defaultdict[str, list[str]] = defaultdict(list)
    for path, words in copy_differences(sys_id, expected, run):
        differences[path].append(words)
    lines = {path: Line(path, run.get(path), differences=differences[path]) for path in [*run, *expected, *differences]}
    for path, line in lines.items():
        if path in expected:
            line.source_path = _source_path(path, source)
            line.source = source.get(line.source_path)
        line.mark = _mark(line, expected)
    _add_what_is_left(lines, source)
    return list(lines.values())


def _source_path(path: str, source: Fields) -> str:
    before = path[len("old_") :]
    return before if path.startswith("old_sys/") and before in source and before not in SAME_PATH else path


def _mark(line: Line, expected: Fields) -> str:
    if line.differences:
        return DIFFERENT
    if line.path not in expected or line.source is None:
        return OWN
    return EQUAL if expected[line.path] == line.source else MARKED


def _add_what_is_left(lines: dict[str, Line], source: Fields) -> None:
    held = {line.source_path for line in lines.values()}
    for path in source.keys() - held:
        line = lines.setdefault(path, Line(path, None))
        line.source_path, line.source = path, source[path]
        if not line.differences:
            line.mark = TAG if path == "sys/stage" else LEFT


def tree(lines: Iterable[Line]) -> Namespace:
    root = Namespace()
    known = {"": root}
    for line in sorted(lines, key=_place):
        _namespace(line.namespace, known).lines.append(line)
    return root


def _place(line: Line) -> tuple[bool, list[list[str | int]]]:
    """By name, and what the server writes of itself comes last."""
    return line.path.startswith(("sys/", "old_sys/")), [natural(part) for part in line.path.split("/")]


def _namespace(path: str, known: dict[str, Namespace]) -> Namespace:
    if path not in known:
        known[path] = Namespace(path)
        _namespace(path.rpartition("/")[0], known).namespaces.append(known[path])
    return known[path]


# -- series --


@dataclass(frozen=True)
class Chart:
    data: str
    """What is drawn, as JSON: numbers and gaps, and no text of anybody's."""
    drawn: int
    gaps: int
    words: str


def chart(series: Json) -> Chart:
    points = thinned(series["points"], POINTS_DRAWN)
    values = [_drawable(point[2]) for point in points]
    columns = {"steps": [_drawable(point[0]) for point in points], "values": values}
    return Chart(json.dumps(columns), len(points), values.count(None), _in_words(series))


def _drawable(value: float | str) -> float | None:
    """What is no finite number comes as text, and beyond a certain size the plot library has no place for a number."""
    return None if isinstance(value, str) or abs(value) > LARGEST_DRAWN else value


def thinned(points: Sequence[Any], limit: int) -> Sequence[Any]:
    """The first and the last point, and of each of as many equal parts as go in the lowest and the highest."""
    if len(points) <= limit:
        return points
    parts = limit // 2 - 1
    bounds = [1 + (len(points) - 2) * number // parts for number in range(parts + 1)]
    values = [point[2] for point in points]
    kept = {0, len(points) - 1}
    for begin, end in zip(bounds, bounds[1:]):
        kept.update(_extremes(values, range(begin, end)))
    return [points[index] for index in sorted(kept)]


def _extremes(values: Sequence[Any], part: range) -> set[int]:
    numbers = [index for index in part if not isinstance(values[index], str)]
    if not numbers:
        return {part[0]}
    return {min(numbers, key=values.__getitem__), max(numbers, key=values.__getitem__)}


def _in_words(series: Json) -> str:
    points = series["points"]
    if not points:
        return "no points"
    count = f"{len(points):,} points" if len(points) > 1 else "1 point"
    words = [f"{count}, steps {points[0][0]!r} to {points[-1][0]!r}", f"last {points[-1][2]!r}"]
    values = [point[2] for point in points if not isinstance(point[2], str)]
    return ", ".join([*words, *([f"lowest {min(values)!r}", f"highest {max(values)!r}"] if values else [])])


def spread(points: Sequence[Any], limit: int) -> list[tuple[int, Any]]:
    """At most so many points with their numbers, evenly from the first to the last."""
    count = min(limit, len(points))
    numbers = [number * (len(points) - 1) // max(count - 1, 1) for number in range(count)]
    return [(number, points[number]) for number in numbers]
