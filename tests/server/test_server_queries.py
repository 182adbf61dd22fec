"""Queries as people and programs write them: every form finds the same as the form that the client writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.neptune_server.nql import AGGREGATES, KINDS, PATTERN
from tests.neptune_server.process import ServerProcess
from tests.support.wire import Wire

EXPERIMENTS = "/api/leaderboard/v1/experiments"
SEARCH = "/api/leaderboard/v1/leaderboard/entries/search"

NOON = 1_711_886_400_000
TEXTS = ["some text", "it's", 'says "hi"', "C:\\new\\", "\\'", '\\"', "", "ünï 😀", "AND", "(x = 1)", "two\nlines", "v"]
NUMBERS = ["-1.5", "0.25", "3e5"]
VALUES = {
    "artifact": ["c0ffee", "f00d"],
    "bool": ["true", "false", "True", "FALSE"],
    "datetime": ["2024-03-31T12:00:00Z", "2024-03-31T12:00:00.001Z", "2024-03-31T14:00:00.000+02:00", "-5d"],
    "experimentState": ["idle", "running"],
    "float": NUMBERS,
    "floatSeries": NUMBERS,
    "integer": ["-7", "0", "20"],
    "string": TEXTS,
    "stringSet": TEXTS,
}
QUOTED_BY_THE_CLIENT = {"artifact", "datetime", "experimentState", "string", "stringSet"}
PLAIN_NAMES = {
    "artifact": ["data/v1.0-rc+1"],
    "bool": ["some_flag", "sys/trashed"],
    "datetime": ["moment", "sys/creation_time"],
    "experimentState": ["sys/state"],
    "float": ["params/lr", "not/2.5"],
    "floatSeries": ["metrics/val-loss", "größe"],
    "integer": ["epochs", "orders/or"],
    "string": ["some_key", "contains/text", "sys/id"],
    "stringSet": ["sys/tags", "sys/group_tags"],
}
QUOTED_NAMES = {"string": ["a 'name' with \"quotes\"", "and"], "float": ["rate (%): a"]}
PLAIN = re.compile(r"[\w.\/+-]+")


@dataclass
class Registry:
    """Runs with fields of every type, and what queries find of them."""

    server: ServerProcess
    project: str
    wire: Wire

    def add(self, number: int) -> None:
        created = self.wire.post(EXPERIMENTS, {"projectIdentifier": self.project, "type": "run"}).json()
        for path, attribute in fields(number).items():
            self.server.instruments.set_attribute(self.project, created["shortId"], path, attribute)

    def answer(self, query: str) -> Any:
        return self.wire.post(
            SEARCH,
            {"query": {"query": query}, "attributeFilters": [{"path": "sys/id"}]},
            projectIdentifier=self.project,
            type="run",
        )

    def found(self, query: str) -> list[str]:
        answer = self.answer(query)
        assert answer.status_code == 200, f"{query}\n{answer.text}"
        return [entry["attributes"][0]["stringProperties"]["value"] for entry in answer.json()["entries"]]


def fields(number: int) -> dict[str, dict[str, Any]]:
    """One field for each name that is no system's, with a value that depends on the number."""
    found: dict[str, dict[str, Any]] = {}
    for names in (PLAIN_NAMES, QUOTED_NAMES):
        for type_name, paths in names.items():
            for path in paths:
                if not path.startswith("sys/") or type_name == "stringSet":
                    found[path] = field(type_name, number + len(path))
    return found


def field(type_name: str, number: int) -> dict[str, Any]:
    text = VALUES[type_name][number % len(VALUES[type_name])]
    if type_name == "artifact":
        return {"type": "artifact", "hash": text}
    if type_name == "floatSeries":
        return {"type": "floatSeries", "points": [[0.0, NOON, 1.0], [1.0, NOON, float(text)]]}
    if type_name == "stringSet":
        return {"type": "stringSet", "value": sorted({text, TEXTS[(number + 3) % len(TEXTS)]})}
    values = {"bool": number % 2 == 0, "datetime": NOON + number % 3 - 1, "string": text}
    if type_name == "integer":
        return {"type": "int", "value": int(text)}
    return {"type": type_name, "value": values[type_name] if type_name in values else float(text)}


@pytest.fixture
def registry(server: ServerProcess, project: str) -> Registry:
    made = Registry(server, project, Wire(server))
    for number in range(len(TEXTS)):
        made.add(number)
    return made


def quoted(text: str, quote: str) -> str:
    return quote + re.sub(rf"([{quote}\\])", r"\\\1", text) + quote


@dataclass(frozen=True)
class Comparison:
    type: str
    path: str
    operator: str
    value: str
    aggregate: str | None = None

    def canonical(self) -> str:
        name = f"`{self.path}`:{self.type}"
        left = f"{self.aggregate}({name})" if self.aggregate else name
        return f"({left} {self.operator} {self._client_value()})"

    def _client_value(self) -> str:
        is_quoted = self.type in QUOTED_BY_THE_CLIENT or self.operator in PATTERN
        return quoted(self.value, '"') if is_quoted else self.value


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    type_name = draw(st.sampled_from(sorted(KINDS)))
    path = draw(st.sampled_from(PLAIN_NAMES[type_name] + QUOTED_NAMES.get(type_name, [])))
    operator = draw(st.sampled_from(KINDS[type_name].operators))
    value = draw(st.sampled_from(VALUES[type_name]))
    if operator in PATTERN:
        value = re.escape(value)
    aggregate = draw(st.none() | st.sampled_from(AGGREGATES)) if type_name == "floatSeries" else None
    return Comparison(type_name, path, operator, value, aggregate)


blanks = st.sampled_from(["", " ", "  ", "\t", "\n"])
some_blanks = st.sampled_from([" ", "  ", "\t", "\n"])
cases = st.sampled_from([str.upper, str.lower, str.title])


@st.composite
def forms(draw: st.DrawFn, comparison: Comparison) -> str:
    """The comparison as anybody may write it: quotes, backquotes, blanks and letters as they like."""
    name = comparison.path
    if not PLAIN.fullmatch(name) or name == "and" or draw(st.booleans()):
        name = f"`{name}`"
    left = f"{name}{draw(blanks)}:{draw(blanks)}{comparison.type}"
    if comparison.aggregate:
        left = f"{comparison.aggregate}{draw(blanks)}({draw(blanks)}{left}{draw(blanks)})"
    between = blanks if not comparison.operator[0].isalpha() else some_blanks
    operator = draw(cases)(comparison.operator)
    written = f"{left}{draw(between)}{operator}{draw(between)}{draw(values(comparison))}"
    return draw(st.sampled_from([f"({written})", f"( {written} )", written, f"(({written}))"]))


@st.composite
def values(draw: st.DrawFn, comparison: Comparison) -> str:
    ways = []
    if comparison.type != "bool":
        ways += [quoted(comparison.value, '"'), quoted(comparison.value, "'")]
    if PLAIN.fullmatch(comparison.value) and comparison.value != "AND":
        ways.append(comparison.value)
    return draw(st.sampled_from(ways))


def over_http(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@over_http(150)
@given(data=st.data())
def test_a_comparison_finds_the_same_in_every_form(registry: Registry, data: st.DataObject) -> None:
    comparison = data.draw(comparisons())
    assert registry.found(data.draw(forms(comparison))) == registry.found(comparison.canonical())


@over_http(60)
@given(data=st.data())
def test_a_whole_query_finds_the_same_in_every_form(registry: Registry, data: st.DataObject) -> None:
    parts = data.draw(st.lists(comparisons(), min_size=2, max_size=4))
    word = data.draw(st.sampled_from(["AND", "OR"]))
    free = f" {data.draw(cases)(word)} ".join(data.draw(forms(each)) for each in parts)
    assert registry.found(free) == registry.found(f" {word} ".join(each.canonical() for each in parts))


@pytest.mark.parametrize("type_name", sorted(KINDS.keys() - {"experimentState"}))
def test_the_canonical_form_tells_the_runs_apart(registry: Registry, type_name: str) -> None:
    """What the forms are compared with is neither everything nor nothing."""
    operator, path, value = KINDS[type_name].operators[0], PLAIN_NAMES[type_name][0], VALUES[type_name][0]
    assert 0 < len(registry.found(Comparison(type_name, path, operator, value).canonical())) < len(TEXTS)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("(sys/tags: stringSet CONTAINS 'some text')", 2),
        ("(some_key: string = 'v')", 1),
        ("(some_key:string='it\\'s') OR (some_key : string = \"it's\")", 1),
    ],
)
def test_queries_of_other_programs_are_understood(registry: Registry, query: str, count: int) -> None:
    assert len(registry.found(query)) == count


@pytest.mark.parametrize(
    "query",
    [
        "key: float = (-_-)",
        "some_key: string = 'v",
        "some_key: string = 'v\"",
        "'some_key': string = 'v'",
        "some key: string = 'v'",
        "some_key:: string = 'v'",
        "some_key: string = 'v' 'w'",
        "some_key: 'string' = v",
        "some_flag: bool = 'true'",
    ],
)
def test_nonsense_is_a_syntax_error(registry: Registry, query: str) -> None:
    answer = registry.answer(query)
    assert (answer.status_code, answer.json()["title"]) == (400, "Syntax error")
