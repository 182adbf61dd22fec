"""Search every interleaving of writers, kills and late requests for a run that looks complete and is wrong.

The script marks a copy complete by a protocol of a few rules (see "The protocol" in model_to_run.py). Here each rule is
a switch. With all of them on, no interleaving leaves a run that is complete by the rule and wrong. With one of them
off, the search finds such a run: so it would find a hole in the rules themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Union

import pytest


@dataclass(frozen=True)
class Rules:
    every_write_claims: bool = True
    first_write_removes_found_claims: bool = True
    repeated_write_renews_claim: bool = True
    read_back_wants_own_claim_alone: bool = True
    read_back_wants_the_mark_it_found: bool = True
    run_is_read_before_its_source: bool = True
    failed_copy_keeps_claim: bool = True


Pair = Union[tuple[int, int], None]


class Run(NamedTuple):
    """A run as the server has it. Its content is right for version v when it is ((v, 1), (v, 2))."""

    claims: frozenset[str] = frozenset()
    mark: int = 0
    content: tuple[tuple[int, int], ...] = ()


class Request(NamedTuple):
    """A request that writes: it adds and removes claims, and may replace, extend or mark what the run holds."""

    add: frozenset[str]
    remove: frozenset[str]
    clear: bool = False
    append: Pair = None
    mark: int = 0


def carried_out(run: Run, request: Request) -> Run:
    content = () if request.clear else run.content
    content += (request.append,) if request.append else ()
    claims = (run.claims - request.remove) | request.add
    return Run(claims, request.mark or run.mark, content[:4])


class Writer(NamedTuple):
    """One start of the script on one machine, and how far it is."""

    name: str
    step: str = "list"
    version: int = 0
    number: int = 0
    """Of its present claim."""
    found: frozenset[str] = frozenset()
    """The claims, and below the mark, that the run had when it was listed."""
    mark: int = 0
    repeated: bool = False
    starts: int = 1
    """How often it may still be started after a kill."""
    recopies: bool = False

    @property
    def claim(self) -> str:
        return f"{self.name}{self.starts}{self.number}"


class State(NamedTuple):
    run: Run
    version: int
    """The present version of the source."""
    changes: int
    """How often it may still change."""
    writers: tuple[Writer, ...]
    late: tuple[Request, ...]
    """Requests that are still on their way."""
    lates: int
    """How many more may be late."""


NEXT = {"first": "second", "second": "renew", "renew": "look", "mark": "done"}


def request_of(writer: Writer, rules: Rules) -> Request:
    """What a writer sends in a step."""
    own = frozenset({writer.claim})
    add = own if rules.every_write_claims or writer.step == "first" else frozenset()
    if writer.step == "first":
        others = writer.found if rules.first_write_removes_found_claims else frozenset()
        return Request(own, others, clear=True, append=(writer.version, 1))
    if writer.step == "second":
        return Request(add, frozenset(), append=(writer.version, 2))
    if writer.step == "renew":
        old = frozenset({writer._replace(number=writer.number - 1).claim})
        return Request(own, old)
    if writer.step == "mark":
        return Request(frozenset(), own, mark=writer.version)
    return Request(
        own if writer.step == "claim again" else frozenset(), own if writer.step == "clean up" else frozenset()
    )


def moves(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """Everything that can happen next."""
    if state.changes:
        yield "the source changes", state._replace(version=state.version + 1, changes=state.changes - 1)
    for number, request in enumerate(state.late):
        rest = state.late[:number] + state.late[number + 1 :]
        yield f"late: {request}", state._replace(run=carried_out(state.run, request), late=rest)
    for number, writer in enumerate(state.writers):
        for words, after, state_after in steps(state, writer, rules):
            writers = (*state.writers[:number], after, *state.writers[number + 1 :])
            yield f"{writer.name}: {words}", state_after._replace(writers=writers)


def steps(state: State, writer: Writer, rules: Rules) -> Iterator[tuple[str, Writer, State]]:
    """What one writer can do next, or what can happen to it."""
    if writer.step in ("done", "failed"):
        return
    if writer.step in ("list", "read on"):
        yield from lists(state, writer, rules)
        return
    if writer.step == "renew" and not (writer.repeated and rules.repeated_write_renews_claim):
        yield "goes on", writer._replace(step="look"), state
        return
    if writer.step == "look":
        yield "reads back", looked(state.run, writer, rules), state
        return
    if writer.step == "renew":
        writer = writer._replace(number=writer.number + 1, repeated=False)
    yield from sends(state, writer, request_of(writer, rules))


def lists(state: State, writer: Writer, rules: Rules) -> Iterator[tuple[str, Writer, State]]:
    """A writer reads the run, and the source, one after the other."""
    first = writer.step == "list"
    if first == rules.run_is_read_before_its_source:
        words, writer = "lists the run", writer._replace(found=state.run.claims, mark=state.run.mark)
    else:
        words, writer = "lists the source", writer._replace(version=state.version)
    complete = writer.mark == writer.version and not writer.found and not writer.recopies
    yield words, writer._replace(step="read on" if first else "done" if complete else "first"), state


def looked(run: Run, writer: Writer, rules: Rules) -> Writer:
    """What a writer does when it has read the run back."""
    whole = run.content == ((writer.version, 1), (writer.version, 2))
    alone = run.claims == {writer.claim} or not rules.read_back_wants_own_claim_alone
    same = run.mark == writer.mark or not rules.read_back_wants_the_mark_it_found
    if whole and alone and same:
        return writer._replace(step="mark")
    if not rules.failed_copy_keeps_claim:
        return writer._replace(step="clean up")
    return writer._replace(step="failed" if writer.claim in run.claims else "claim again")


def sends(state: State, writer: Writer, request: Request) -> Iterator[tuple[str, Writer, State]]:
    """A request arrives once, or is repeated, or its sender is killed before or after it arrives."""
    arrived = state._replace(run=carried_out(state.run, request))
    step = NEXT.get(writer.step, "failed")
    # A repeated renewal needs another one.
    again = writer._replace(step="renew" if writer.step == "renew" else step, repeated=True)
    yield f"sends {request}", writer._replace(step=step), arrived
    late = (*state.late, request)
    restarted = Writer(writer.name, starts=writer.starts - 1, recopies=writer.recopies)
    if state.lates:
        yield f"sends {request}, repeats it", again, arrived._replace(late=late, lates=state.lates - 1)
    if writer.starts:
        yield f"is killed after {request}", restarted, arrived
        if state.lates:
            yield f"is killed before {request}", restarted, state._replace(late=late, lates=state.lates - 1)


def is_wrong(state: State) -> bool:
    """Whether the run is complete by the rule, and its content is not that of the present version."""
    run, version = state.run, state.version
    return run.mark == version and not run.claims and run.content != ((version, 1), (version, 2))


def search(rules: Rules, start: State) -> tuple[int, list[str]]:
    """The number of states that can be reached, and the shortest way to a wrong one."""
    came_from: dict[State, Any] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if is_wrong(state):
            return len(came_from), way_to(state, came_from)
        for words, after in moves(state, rules):
            after = after._replace(late=tuple(sorted(after.late, key=hash)))
            if after not in came_from:
                came_from[after] = (state, words)
                waiting.append(after)
    return len(came_from), []


def way_to(state: State, came_from: dict[State, Any]) -> list[str]:
    way: list[str] = []
    while (before := came_from[state]) is not None:
        state, words = before
        way.insert(0, words)
    return way


def start(writers: int, lates: int, changes: int, kills: int = 0, recopies: bool = False, mark: int = 0) -> State:
    """Writers at the start, of whom one may be killed, and a run that is empty or, with a mark, complete."""
    content = ((1, 1), (1, 2)) if mark else ()
    names = "abc"[:writers]
    each = tuple(Writer(name, starts=kills if name == "a" else 0, recopies=recopies) for name in names)
    return State(Run(mark=mark, content=content), 1, changes, each, (), lates)


@pytest.mark.parametrize(
    "begin",
    [
        start(writers=2, lates=1, changes=1, kills=1),
        start(writers=2, lates=2, changes=1),
        start(writers=2, lates=2, changes=0, kills=1),
        start(writers=2, lates=1, changes=0, kills=1, recopies=True, mark=1),
        start(writers=2, lates=2, changes=1, mark=1),
        start(writers=3, lates=1, changes=0),
    ],
    ids=["changed", "two late", "two late and killed", "recopy", "caught up", "three"],
)
def test_no_interleaving_ends_in_a_run_that_is_marked_and_wrong(begin: State) -> None:
    number, way = search(Rules(), begin)
    assert not way, "\n".join(way)
    assert number > 1_000


@pytest.mark.parametrize(
    "rule", [name for name in Rules.__dataclass_fields__ if name != "first_write_removes_found_claims"]
)
def test_without_any_one_rule_the_search_finds_a_run_that_is_marked_and_wrong(rule: str) -> None:
    without = replace(Rules(), **{rule: False})
    _, way = search(without, start(writers=2, lates=1, changes=1, kills=1))
    assert way


def test_without_removing_claims_that_were_found_no_copy_after_a_kill_is_ever_complete() -> None:
    left = start(writers=1, lates=0, changes=0)._replace(run=Run(claims=frozenset({"x"})))
    for removes in (True, False):
        state, rules = left, replace(Rules(), first_write_removes_found_claims=removes)
        while state.writers[0].step not in ("done", "failed"):
            _, state = next(move for move in moves(state, rules))
        assert (state.writers[0].step, bool(state.run.claims)) == (("done", False) if removes else ("failed", True))
