"""The query language of searches: `(sys/trashed:bool = false) AND (metrics/loss:floatSeries < 0.2)`.

A comparison is of one type and holds only for fields of that type; for a field that is missing, no comparison holds,
`!=` and `NOT CONTAINS` included. Without a type, it stands for all types that the operator and the value fit.

A name stands in backquotes, or without them if it has none but letters, digits and `_ . / + -`. A value stands in
double or single quotes, or without them on the same condition. A backslash escapes the quote around it, and itself.
"""

from __future__ import annotations

import calendar
import operator
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedInput

from .attributes import EPOCH, Attribute, FloatSeries, StringSeries, StringSet

AttributeOf = Callable[[str], "Attribute | None"]

AGGREGATES = ("last", "min", "max", "average", "variance")


class NqlSyntaxError(Exception):
    """The query is not well-formed, or an operator or value does not fit its type."""


@dataclass(frozen=True)
class Node:
    def matches(self, attribute_of: AttributeOf) -> bool:
        raise NotImplementedError


@dataclass(frozen=True)
class Comparison(Node):
    """`type` is the wire's name; `aggregate` matters to series of numbers alone."""

    path: str
    type: str
    operator: str
    value: Any
    aggregate: str = "last"

    def matches(self, attribute_of: AttributeOf) -> bool:
        attribute = attribute_of(self.path)
        if attribute is None or attribute.type != self.type:
            return False
        actual = comparable(attribute, self.aggregate)
        return actual is not None and bool(OPERATORS[self.operator](actual, self.value))


@dataclass(frozen=True)
class And(Node):
    """Without items: everything."""

    items: tuple[Node, ...]

    def matches(self, attribute_of: AttributeOf) -> bool:
        return all(item.matches(attribute_of) for item in self.items)


@dataclass(frozen=True)
class Or(Node):
    items: tuple[Node, ...]

    def matches(self, attribute_of: AttributeOf) -> bool:
        return any(item.matches(attribute_of) for item in self.items)


@dataclass(frozen=True)
class Not(Node):
    item: Node

    def matches(self, attribute_of: AttributeOf) -> bool:
        return not self.item.matches(attribute_of)


def comparable(attribute: Attribute, aggregate: str = "last") -> Any:
    """What a search compares and sorts by; None if the field has nothing of the kind."""
    if isinstance(attribute, FloatSeries):
        return getattr(attribute, aggregate)
    if isinstance(attribute, StringSeries):
        return attribute.last
    if isinstance(attribute, StringSet):
        return attribute.values if attribute.is_set else None
    return getattr(attribute, "value", getattr(attribute, "hash", None))


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "CONTAINS": lambda actual, part: part in actual,
    "NOT CONTAINS": lambda actual, part: part not in actual,
    "MATCHES": lambda actual, pattern: pattern.search(actual) is not None,
    "NOT MATCHES": lambda actual, pattern: pattern.search(actual) is None,
}
EQUALITY = ("=", "!=")
ORDER = (*EQUALITY, "<", "<=", ">", ">=")
MEMBERSHIP = ("CONTAINS", "NOT CONTAINS")
PATTERN = ("MATCHES", "NOT MATCHES")


@dataclass(frozen=True)
class Literal:
    text: str
    quoted: bool


@dataclass(frozen=True)
class FieldName:
    path: str
    type: str | None
    aggregate: str = "last"


def to_text(literal: Literal, now_millis: int) -> str:
    return literal.text


def to_integer(literal: Literal, now_millis: int) -> int:
    if not re.fullmatch(r"[+-]?\d+", literal.text, re.ASCII):
        raise NqlSyntaxError(f"'{literal.text}' is not a whole number")
    return int(literal.text)


def to_number(literal: Literal, now_millis: int) -> float:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", literal.text, re.ASCII | re.IGNORECASE):
        raise NqlSyntaxError(f"'{literal.text}' is not a number")
    return float(literal.text)


def to_bool(literal: Literal, now_millis: int) -> bool:
    if literal.quoted or literal.text.lower() not in ("true", "false"):
        raise NqlSyntaxError(f"'{literal.text}' is neither true nor false")
    return literal.text.lower() == "true"


def to_state(literal: Literal, now_millis: int) -> str:
    if literal.text not in ("running", "idle"):
        raise NqlSyntaxError(f"'{literal.text}' is not a state")
    return literal.text


def to_instant(literal: Literal, now_millis: int) -> int:
    """An instant with its time zone, or a time before now: hours, days or months (`-2h`, `-5d`, `-1M`)."""
    relative = re.fullmatch(r"-(\d{1,6})([hdM])", literal.text, re.ASCII)
    try:
        if relative:
            return earlier(now_millis, int(relative[1]), relative[2])
        template = "%Y-%m-%dT%H:%M:%S.%f%z" if "." in literal.text else "%Y-%m-%dT%H:%M:%S%z"
        return (datetime.strptime(literal.text, template) - EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError) as error:
        raise NqlSyntaxError(f"'{literal.text}' is not an instant") from error


def earlier(now_millis: int, count: int, unit: str) -> int:
    if unit != "M":
        return now_millis - count * {"h": 3_600_000, "d": 86_400_000}[unit]
    now = datetime.fromtimestamp(now_millis / 1000, timezone.utc)
    year, month = divmod(now.year * 12 + now.month - 1 - count, 12)
    day = min(now.day, calendar.monthrange(year, month + 1)[1])
    return (now.replace(year=year, month=month + 1, day=day) - EPOCH) // timedelta(milliseconds=1)


@dataclass(frozen=True)
class Kind:
    """A type as queries name it."""

    wire: str
    operators: tuple[str, ...]
    value: Callable[[Literal, int], Any]

    def comparison(self, field: FieldName, operator_name: str, literal: Literal, now_millis: int) -> Comparison:
        if operator_name not in self.operators:
            raise NqlSyntaxError(f"A field of type {self.wire} has no {operator_name}")
        value = pattern(literal) if operator_name in PATTERN else self.value(literal, now_millis)
        return Comparison(field.path, self.wire, operator_name, value, field.aggregate)


def pattern(literal: Literal) -> re.Pattern[str]:
    try:
        return re.compile(literal.text)
    except re.error as error:
        raise NqlSyntaxError(f"'{literal.text}' is not a regular expression") from error


KINDS = {
    "artifact": Kind("artifact", EQUALITY, to_text),
    "bool": Kind("bool", EQUALITY, to_bool),
    "datetime": Kind("datetime", ORDER, to_instant),
    "experimentState": Kind("experimentState", EQUALITY, to_state),
    "float": Kind("float", ORDER, to_number),
    "floatSeries": Kind("floatSeries", ORDER, to_number),
    "integer": Kind("int", ORDER, to_integer),
    "string": Kind("string", ORDER + MEMBERSHIP + PATTERN, to_text),
    "stringSet": Kind("stringSet", MEMBERSHIP, to_text),
}

GRAMMAR = r"""
    ?disjunction: conjunction (_OR conjunction)*
    ?conjunction: negation (_AND negation)*
    ?negation: _NOT negation    -> negated
        | comparison
        | "(" disjunction ")"

    comparison: field operator value
    field: path (":" WORD)?     -> typed
        | WORD "(" path ":" WORD ")"    -> aggregated
    path: BACKQUOTED | WORD
    operator: SYMBOL            -> plain_operator
        | VERB                  -> plain_operator
        | _NOT VERB             -> negated_operator
    value: STRING | WORD

    SYMBOL: /<=|>=|!=|=|<|>/
    _AND.2: /and(?![\w.\/+-])/i
    _OR.2: /or(?![\w.\/+-])/i
    _NOT.2: /not(?![\w.\/+-])/i
    VERB.2: /(contains|matches)(?![\w.\/+-])/i
    BACKQUOTED: /`[^`]+`/
    STRING: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/s
    WORD: /[\w.\/+-]+/
    %ignore /\s+/
"""


@v_args(inline=True)
class _Builder(Transformer):
    """Puts together the nodes; comparisons wait for the time of asking, which relative instants refer to."""

    def disjunction(self, *items: Delayed) -> Delayed:
        return lambda now: Or(each(items, now))

    def conjunction(self, *items: Delayed) -> Delayed:
        return lambda now: And(each(items, now))

    def negated(self, item: Delayed) -> Delayed:
        return lambda now: Not(item(now))

    def comparison(self, field: FieldName, operator_name: str, literal: Literal) -> Delayed:
        return lambda now: typed_comparison(field, operator_name, literal, now)

    def typed(self, path: str, type_name: Token | None = None) -> FieldName:
        return FieldName(path, None if type_name is None else str(type_name))

    def aggregated(self, aggregate: Token, path: str, type_name: Token) -> FieldName:
        if aggregate not in AGGREGATES or type_name != "floatSeries":
            raise NqlSyntaxError(f"There is no {aggregate} of a {type_name}")
        return FieldName(path, str(type_name), str(aggregate))

    def path(self, token: Token) -> str:
        return token.strip("`")

    def plain_operator(self, token: Token) -> str:
        return token.upper()

    def negated_operator(self, token: Token) -> str:
        return f"NOT {token.upper()}"

    def value(self, token: Token) -> Literal:
        if token.type == "STRING":
            return Literal(re.sub(rf"\\([{token[0]}\\])", r"\1", token[1:-1]), quoted=True)
        return Literal(str(token), quoted=False)


Delayed = Callable[[int], Node]


def each(items: Iterable[Delayed], now_millis: int) -> tuple[Node, ...]:
    return tuple(item(now_millis) for item in items)


def typed_comparison(field: FieldName, operator_name: str, literal: Literal, now_millis: int) -> Node:
    if field.type is None:
        return of_any_type(field, operator_name, literal, now_millis)
    if field.type not in KINDS:
        raise NqlSyntaxError(f"There is no type '{field.type}'")
    return KINDS[field.type].comparison(field, operator_name, literal, now_millis)


def of_any_type(field: FieldName, operator_name: str, literal: Literal, now_millis: int) -> Node:
    fitting = []
    for kind in KINDS.values():
        try:
            fitting.append(kind.comparison(field, operator_name, literal, now_millis))
        except NqlSyntaxError:
            continue
    if not fitting:
        raise NqlSyntaxError(f"No type of field fits '{field.path} {operator_name} {literal.text}'")
    return Or(tuple(fitting))


_PARSER = Lark(GRAMMAR, start="disjunction", parser="lalr", transformer=_Builder())


def parse(query: str, now_millis: int | None = None) -> Node:
    """An empty query is one that everything matches."""
    if not query.strip():
        return And(())
    try:
        delayed: Any = _PARSER.parse(query)
    except UnexpectedInput as error:
        raise NqlSyntaxError(str(error)) from error
    return delayed(time.time_ns() // 1_000_000 if now_millis is None else now_millis)


def matches(node: Node, attribute_of: AttributeOf) -> bool:
    return node.matches(attribute_of)
