"""Answers that lack a part, as those of another server may."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

EACH = "*"


def _no_parts() -> dict[str, list[list[str]]]:
    return defaultdict(list)


@dataclass
class Omissions:
    """The parts to leave out of an operation's answers, each by the keys that lead to it."""

    ordered: dict[str, list[list[str]]] = field(default_factory=_no_parts)

    def order(self, operation: str, part: str) -> None:
        self.ordered[operation].append(part.split("."))

    def clear(self) -> None:
        self.ordered.clear()

    def applied(self, operation: str, answer: Any) -> Any:
        for keys in self.ordered.get(operation, ()):
            answer = _without(answer, keys)
        return answer


def _without(document: Any, keys: list[str]) -> Any:
    """Copy a document less one part. It is left out of every item of a list on the way there."""
    if isinstance(document, list):
        return [_without(each, keys) for each in document]
    if not isinstance(document, dict):
        return document
    first, *rest = keys
    if not rest:
        return {key: value for key, value in document.items() if first not in (key, EACH)}
    return {key: _without(value, rest) if first in (key, EACH) else value for key, value in document.items()}
