"""The query language: what is a query, and what it matches."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.neptune_server import nql
from tests.neptune_server.attributes import (
    Artifact,
    Attribute,
    Bool,
    Datetime,
    ExperimentState,
    Float,
    FloatSeries,
    Int,
    String,
    StringSet,
)


def millis(year: int, month: int, day: int, hour: int) -> int:
    return int(datetime(year, month, day, hour, tzinfo=timezone.utc).timestamp()) * 1000


def a_series(*values: float) -> FloatSeries:
    series = FloatSeries()
    for step, value in enumerate(values):
        series.append(step, 0, value)
    return series


FIELDS: dict[str, Attribute] = {
    "sys/id": String("CLS-7"),
    "sys/creation_time": Datetime(millis(2024, 3, 31, 12)),
    "sys/trashed": Bool(False),
    "sys/state": ExperimentState("idle"),
    "sys/tags": StringSet(frozenset({"best", "two words"})),
    "sys/group_tags": StringSet(is_set=False),
    "params/lr": Float(0.003),
    "params/epochs": Int(20),
    "params/négatif": Float(-1.5),
    "a field": String('says "hi" and C:\\new'),
    "metrics/loss": a_series(9.0, 1.0, 2.0),
    "metrics/empty": FloatSeries(),
    "data": Artifact("c0ffee"),
}


def holds(query: str, now: int | None = None) -> bool:
    return nql.matches(nql.parse(query, now), FIELDS.get)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "  \n ",
        '(`sys/id`:string = "CLS-7")',
        "(`sys/trashed`:bool = false)",
        "sys/trashed:bool = False",
        '((`sys/state`:experimentState = "idle") AND (`sys/tags`:stringSet CONTAINS "best"))',
        '(`sys/tags`:stringSet CONTAINS "two words")',
        "(params/lr: float < 0.2) AND (params/epochs: integer > 10)",
        '`params/lr`:float > "0.002"',
        "params/lr:float=3e-3",
        "params/négatif:float >= -1.5",
        "(sys/id: string = CLS-7)",
        "sys/id = CLS-7",
        "params/epochs = 20",
        "params/epochs != 21",
        r'`a field`:string = "says \"hi\" and C:\\new"',
        r'`a field` contains "C:\new"',
        "`a field`:string = 'says \"hi\" and C:\\\\new'",
        "(sys/tags: stringSet CONTAINS 'two words')",
        "(sys/id : string='CLS-7')",
        'sys/id:string > "CLS-6"',
        'sys/id:string NOT CONTAINS "x"',
        r'sys/id:string MATCHES "^[A-Z]+-\d$"',
        'sys/id:string not matches "^LS"',
        "metrics/loss:floatSeries = 2",
        "last(`metrics/loss`:floatSeries) = 2",
        "min(metrics/loss:floatSeries) = 1",
        "max(metrics/loss:floatSeries) = 9",
        "average(metrics/loss:floatSeries) = 4",
        "variance(metrics/loss:floatSeries) > 12.6",
        'data:artifact = "c0ffee"',
        'sys/creation_time:datetime = "2024-03-31T12:00:00Z"',
        'sys/creation_time:datetime > "2024-03-31T11:59:59.999Z"',
        'sys/creation_time:datetime <= "2024-03-31T14:00:00.000+02:00"',
        "NOT sys/id = other",
        "not (sys/id = CLS-7 and sys/id = other)",
    ],
)
def test_a_query_that_holds(query: str) -> None:
    assert holds(query)


@pytest.mark.parametrize(
    "query",
    [
        'sys/id:string = "CLS-70"',
        'sys/id:string = "cls-7"',
        "sys/trashed:bool = true",
        'sys/tags:stringSet CONTAINS "bes"',
        'sys/tags:stringSet NOT CONTAINS "best"',
        # The field is of another type.
        "params/epochs:float = 20",
        "params/lr:string = 0.003",
        # The field is missing, or has no value.
        "missing = 1",
        "missing != 1",
        "missing:float != 1",
        'missing:stringSet NOT CONTAINS "x"',
        'sys/group_tags:stringSet NOT CONTAINS "x"',
        "metrics/empty:floatSeries != 1",
        "metrics/empty:floatSeries < 1",
    ],
)
def test_a_query_that_does_not_hold(query: str) -> None:
    assert not holds(query)


def test_the_negation_of_a_comparison_holds_for_a_missing_field() -> None:
    assert holds("NOT missing:float = 1")


def test_and_binds_closer_than_or() -> None:
    assert holds("sys/id = CLS-7 OR sys/id = x AND sys/id = y")
    assert not holds("(sys/id = CLS-7 OR sys/id = x) AND sys/id = y")
    assert holds("NOT sys/id = x AND sys/id = CLS-7")


@pytest.mark.parametrize(
    ("since", "held"),
    [("-23h", True), ("-25h", True), ("-22h", False), ("-1d", True), ("-0d", False), ("-1M", True), ("-12M", True)],
)
def test_time_relative_to_now(since: str, held: bool) -> None:
    now = millis(2024, 4, 1, 11)
    assert holds(f'sys/creation_time:datetime >= "{since}"', now) is held


def test_a_month_before_a_day_that_the_month_has_not() -> None:
    parsed = nql.parse('x:datetime > "-1M"', millis(2024, 3, 31, 6))
    assert isinstance(parsed, nql.Comparison)
    assert parsed.value == millis(2024, 2, 29, 6)


@pytest.mark.parametrize(
    "query",
    [
        "key: float = (-_-)",
        "just words",
        "x",
        "x =",
        "= 5",
        "()",
        "(x = 5",
        "x = 5)",
        "x = 5 y = 6",
        "x = 5 AND",
        "AND x = 5",
        'x = "open',
        "x = 'open",
        "x = 'mixed\"",
        "'x' = 5",
        "`open = 5",
        "`` = 5",
        "x == 5",
        "x <> 5",
        "x LIKE y",
        "x:int = 5",
        "x:nothing = 5",
        "x:float = five",
        "x:float = nan",
        "x:integer = 5.5",
        "x:bool = 1",
        'x:bool = "true"',
        "x:bool > true",
        'x:experimentState = "Active"',
        'x:stringSet = "a"',
        "x:float CONTAINS 1",
        'x:datetime > "yesterday"',
        'x:datetime > "2024-01-01"',
        'x:datetime > "2024-01-01T00:00:00"',
        'x:datetime > "2024-13-01T00:00:00Z"',
        'x:datetime > "-999999M"',
        'x:string MATCHES "["',
        "median(x:floatSeries) > 1",
        "last(x:float) > 1",
        "last(x) > 1",
    ],
)
def test_what_is_not_a_query(query: str) -> None:
    with pytest.raises(nql.NqlSyntaxError):
        nql.parse(query)


def test_many_alternatives_are_no_depth() -> None:
    assert holds("(" + " OR ".join(f'(`sys/id`:string = "CLS-{number}")' for number in range(3000)) + ")")


def test_deep_parentheses() -> None:
    assert holds("(" * 500 + "sys/id = CLS-7" + ")" * 500)


PATHS = st.text(st.characters(codec="utf-8", exclude_characters="`"), min_size=1)
TEXTS = st.text()
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
EQUAL = st.sampled_from(nql.EQUALITY)
ORDERED = st.sampled_from(nql.ORDER)
COMPARISONS = st.one_of(
    st.builds(nql.Comparison, PATHS, st.just("string"), ORDERED, TEXTS),
    st.builds(nql.Comparison, PATHS, st.just("stringSet"), st.sampled_from(nql.MEMBERSHIP), TEXTS),
    st.builds(nql.Comparison, PATHS, st.just("float"), ORDERED, NUMBERS),
    st.builds(nql.Comparison, PATHS, st.just("int"), ORDERED, st.integers()),
    st.builds(nql.Comparison, PATHS, st.just("bool"), EQUAL, st.booleans()),
    st.builds(
        nql.Comparison, PATHS, st.just("floatSeries"), ORDERED, NUMBERS, aggregate=st.sampled_from(nql.AGGREGATES)
    ),
)


def groups(nodes: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(nodes, min_size=2, max_size=3).map(tuple)
    return st.one_of(st.builds(nql.And, several), st.builds(nql.Or, several), st.builds(nql.Not, nodes))


NODES = st.recursive(COMPARISONS, groups, max_leaves=8)


def written(node: nql.Node) -> str:
    if isinstance(node, nql.Not):
        return f"NOT {written(node.item)}"
    if isinstance(node, (nql.And, nql.Or)):
        return "(" + f" {type(node).__name__} ".join(map(written, node.items)) + ")"
    assert isinstance(node, nql.Comparison)
    field = f"`{node.path}`:{'integer' if node.type == 'int' else node.type}"
    if node.type == "floatSeries":
        field = f"{node.aggregate}({field})"
    return f"({field} {node.operator} {literal(node.value)})"


def literal(value: Any) -> str:
    if isinstance(value, str):
        return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
    return repr(value)


@given(NODES)
def test_what_is_written_is_read_again(node: nql.Node) -> None:
    assert nql.parse(written(node)) == node


@given(NODES)
def test_what_is_written_is_read_in_any_case_of_letters(node: nql.Node) -> None:
    swapped = re.sub(r"(?<=[) ])(And|Or|NOT)(?=[ (])", lambda word: word[0].swapcase(), written(node))
    assert type(nql.parse(swapped)) is type(node)


@given(st.text())
def test_any_text_is_a_query_or_a_syntax_error(text: str) -> None:
    with contextlib.suppress(nql.NqlSyntaxError):
        nql.parse(text)
