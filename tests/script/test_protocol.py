"""Search every interleaving of writers, kills and late requests for a run that looks complete and is wrong.

The script marks a copy complete by a protocol of a few rules (see "The protocol" in model_to_run.py). Here each rule is
a switch. With all of them on, no interleaving leaves a run that is complete by the rule and wrong. With one of them
off, the search finds such a run: so it would find a hole in the rules themselves. One is different: a copy that left
the claims it found would never be complete after a kill.

A writer is one start of the script that copies the object. Its steps, and what does them in model_to_run.py:

    list            open_run() opens the run, and read() reads its fields: the claims and the mark that are there
    read on         read() reads the fields of the source: its modification time is the version
    first           write_values() claims the run, removes the claims found, and takes out what was there
    second          write_each() and copy_contents() write the rest, by Server.write(), which adds the claim
    upload          copy_contents() uploads a file by Server.upload(), without the claim; it replaces an earlier one
    renew           renew_claim() takes another claim after a write that was repeated
    look            copy() reads the run back; check_claims() and compare_run() judge it
    claim again     check_claims() adds the claim of a failed copy if another copy has removed it
    mark            mark_complete() writes the mark and removes the claim, in one request
    ended           copy() has returned, for an object that is up to date, copied, or failed

"clean up" is what a failed copy would do without rule 6. Between any two steps, and after the last one, a writer can be
killed and started again. A request can be repeated, and its first copy arrive at any later time; or its sender is
killed, and it arrives then. In some searches the source changes at any time.

All writers begin alike, so the search lets them begin in order. It does not go on where no writer, kill or late request
can make the run complete any more. It forgets what a writer no longer needs. Once the source changes no more, a
writer reads the run and the source in one step. These are the searches:

    changed: 55,066 states, two writers, a kill, a late request, and a source that changes
    two late: 33,112 states, two writers, two late requests, and a source that changes
    two late and killed: 97,090 states, two writers, a kill, and two late requests
    recopy: 7,239 states, two writers with --recopy of a complete run, a kill, and a late request
    caught up: 7,219 states, two writers, two late requests, a source that changes, and a run that was complete
    three: 19,187 states, three writers, and a late request
    uploads: 7,554 states, two writers that upload, a kill, and a source that changes twice

No claim goes with an upload. Where another copy is under way, a run may therefore be wrong until the writer that has
uploaded has looked. The search "uploads" allows for that, and kills no writer between its upload and its look; nor is
an upload late. Rule 7 is about the table of runs, which these writers do not read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Optional

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
    failed_copy_claims_again: bool = True


class Run(NamedTuple):
    """A run as the server has it. Claims are bits. Each of the two parts of its content is right for one version."""

    claims: int = 0
    mark: int = 0
    first: int = 0
    second: int = 0


TWICE = -1  # the second part of a run to which it was appended twice


class Request(NamedTuple):
    """A request that writes, in the step of that name: it adds and removes claims too."""

    step: str
    version: int
    add: int
    remove: int


def carried_out(run: Run, request: Request) -> Run:
    step, version, add, remove = request
    claims = (run.claims & ~remove) | add
    if step == "first":
        return Run(claims, run.mark, version, 0)
    if step == "second":
        return Run(claims, run.mark, run.first, TWICE if run.second else version)
    if step == "upload":
        return Run(claims, run.mark, run.first, version)
    return Run(claims, version if step == "mark" else run.mark, run.first, run.second)


class Writer(NamedTuple):
    """One start of the script on one machine, and how far it is."""

    own: int
    """Its claim."""
    step: str = "list"
    version: int = 0
    found: int = 0
    """The claims, and below the mark, that the run had when it was listed."""
    mark: int = 0
    repeated: bool = False


class State(NamedTuple):
    run: Run
    version: int
    """The present version of the source."""
    changes: int
    """How often it may still change."""
    kills: int
    """How often a writer may still be started again."""
    lates: int
    """How many more requests may be late."""
    late: tuple[Request, ...]
    """Requests that are still on their way."""
    writers: tuple[Writer, ...]
    uploads: bool
    recopies: bool


Move = tuple[str, str, Optional[Request], State]  # who does it, what happens, the request, the state after it
Step = tuple[str, Optional[Request], Writer, State]


def moves(state: State, rules: Rules) -> Iterator[Move]:
    """Everything that can happen next."""
    if not may_become_complete(state):
        return
    if state.changes:
        yield "the source", "changes", None, state._replace(version=state.version + 1, changes=state.changes - 1)
    for number, request in enumerate(state.late):
        rest = state.late[:number] + state.late[number + 1 :]
        yield "a late request", "arrives", request, state._replace(run=carried_out(state.run, request), late=rest)
    before = None
    for number, writer in enumerate(state.writers):
        if before is not None and before.step == "list" and before.own == 1 << (number - 1):
            return  # the writers begin in order
        before = writer
        for what, sent, after, state_after in steps(state, writer, rules):
            writers = (*state.writers[:number], after, *state.writers[number + 1 :])
            yield "abc"[number], what, sent, state_after._replace(writers=writers)


def may_become_complete(state: State) -> bool:
    """Whether the run has the mark of the present version, or may get it, and something may still happen."""
    version = state.version
    if state.kills:
        return True
    if state.run.mark == version and state.late:
        return True
    for request in state.late:
        if request.step == "mark" and request.version == version:
            return True
    for writer in state.writers:
        if writer.step in ("list", "read on"):
            return True
        if writer.step != "ended" and version in (writer.version, state.run.mark):
            return True
    return False


def steps(state: State, writer: Writer, rules: Rules) -> Iterator[Step]:
    """What one writer can do next, or what can happen to it."""
    step = writer.step
    owes_a_look = state.uploads and step in ("renew", "look", "claim again")
    if state.kills and step != "list" and not owes_a_look:
        again = Writer(writer.own << len(state.writers))
        yield "is killed and started again", None, again, state._replace(kills=state.kills - 1)
    if step in ("list", "read on"):
        yield lists(state, writer, rules)
    elif step == "look":
        yield "reads back", None, looked(state, writer, rules), state
    elif step != "ended":
        if step == "renew":
            writer = writer._replace(own=writer.own << len(state.writers), repeated=False)
        yield from sends(state, writer, request_of(writer, len(state.writers), rules), rules)


def lists(state: State, writer: Writer, rules: Rules) -> Step:
    """A writer reads the run, and the source, one after the other."""
    first = writer.step == "list"
    if first == rules.run_is_read_before_its_source:
        what, writer = "lists the run", writer._replace(found=state.run.claims, mark=state.run.mark)
    else:
        what, writer = "lists the source", writer._replace(version=state.version)
    if first and (state.changes or not rules.run_is_read_before_its_source):
        return what, None, writer._replace(step="read on"), state
    if first:  # it does not matter when a source is listed that changes no more
        what, writer = "lists the run and the source", writer._replace(version=state.version)
    complete = writer.mark == writer.version and not writer.found and not state.recopies
    return what, None, ended(writer) if complete else writer._replace(step="first"), state


def ended(writer: Writer) -> Writer:
    return Writer(writer.own, "ended")


def looked(state: State, writer: Writer, rules: Rules) -> Writer:
    """What a writer does when it has read the run back."""
    run = state.run
    whole = run.first == run.second == writer.version
    alone = run.claims == writer.own or not rules.read_back_wants_own_claim_alone
    same = run.mark == writer.mark or not rules.read_back_wants_the_mark_it_found
    if whole and alone and same:
        return Writer(writer.own, "mark", writer.version)
    if not rules.failed_copy_keeps_claim:
        return Writer(writer.own, "clean up")
    if run.claims & writer.own or not rules.failed_copy_claims_again:
        return ended(writer)
    return Writer(writer.own, "claim again")


def request_of(writer: Writer, writers: int, rules: Rules) -> Request:
    """What a writer sends in a step."""
    own, step, version = writer.own, writer.step, writer.version
    if step == "first":
        return Request(step, version, own, writer.found if rules.first_write_removes_found_claims else 0)
    if step == "second":
        return Request(step, version, own if rules.every_write_claims else 0, 0)
    if step == "renew":
        return Request(step, 0, own, own >> writers)
    if step == "claim again":
        return Request(step, 0, own, 0)
    return Request(step, version, 0, 0 if step == "upload" else own)


def sends(state: State, writer: Writer, request: Request, rules: Rules) -> Iterator[Step]:
    """A request arrives once, or is repeated, or its sender is killed and it arrives later."""
    arrived = state._replace(run=carried_out(state.run, request))
    yield "sends", request, went_on(state, writer, rules), arrived
    if state.lates and request.step != "upload":
        late = tuple(sorted((*state.late, request)))
        again = writer if writer.step == "renew" else went_on(state, writer._replace(repeated=True), rules)
        repeated = arrived._replace(late=late, lates=state.lates - 1)
        # A repeated renewal needs another one.
        yield "repeats", request, again, repeated
        if state.kills:
            restarted = Writer(writer.own << len(state.writers))
            killed = state._replace(late=late, lates=state.lates - 1, kills=state.kills - 1)
            yield "is killed and started again while it sends", request, restarted, killed


def went_on(state: State, writer: Writer, rules: Rules) -> Writer:
    """A writer after a request."""
    if writer.step == "first":
        return writer._replace(step="upload" if state.uploads else "second", found=0)
    if writer.step in ("second", "upload", "renew"):
        renews = writer.repeated and rules.repeated_write_renews_claim
        return writer._replace(step="renew" if renews else "look", repeated=False)
    return ended(writer)


def is_wrong(state: State) -> bool:
    """Whether the run is complete by the rule, and its content is not that of the present version."""
    run, version = state.run, state.version
    if run.mark != version or run.claims or run.first == run.second == version:
        return False
    return not (state.uploads and any(writer.step in ("renew", "look", "claim again") for writer in state.writers))


def search(rules: Rules, begin: State) -> tuple[int, list[str]]:
    """The number of states that can be reached, and the shortest way to a wrong one."""
    came_from: dict[State, tuple] = {begin: ()}
    waiting = deque([begin])
    while waiting:
        state = waiting.popleft()
        if is_wrong(state):
            return len(came_from), way_to(state, came_from)
        for who, what, request, after in moves(state, rules):
            if after not in came_from:
                came_from[after] = (state, who, what, request)
                waiting.append(after)
    return len(came_from), []


def way_to(state: State, came_from: dict[State, tuple]) -> list[str]:
    way: list[str] = []
    while came_from[state]:
        state, who, what, request = came_from[state]
        way.insert(0, f"{who}: {what} {request or ''}")
    return way


def start(
    writers: int = 2,
    lates: int = 0,
    changes: int = 0,
    kills: int = 0,
    recopies: bool = False,
    uploads: bool = False,
    mark: int = 0,
) -> State:
    """Writers at the start, and a run that is empty or, with a mark, complete."""
    each = tuple(Writer(1 << number) for number in range(writers))
    return State(Run(0, mark, mark, mark), 1, changes, kills, lates, (), each, uploads, recopies)


SEARCHES = {
    "changed": start(lates=1, changes=1, kills=1),
    "two late": start(lates=2, changes=1),
    "two late and killed": start(lates=2, kills=1),
    "recopy": start(lates=1, kills=1, recopies=True, mark=1),
    "caught up": start(lates=2, changes=1, mark=1),
    "three": start(writers=3, lates=1),
    "uploads": start(changes=2, kills=1, uploads=True),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_no_interleaving_ends_in_a_run_that_is_marked_and_wrong(name: str) -> None:
    number, way = search(Rules(), SEARCHES[name])
    assert not way, "\n".join(way)
    assert f"    {name}: {number:,} states," in (__doc__ or "")


@pytest.mark.parametrize(
    "rule", [name for name in Rules.__dataclass_fields__ if name != "first_write_removes_found_claims"]
)
def test_without_any_one_rule_the_search_finds_a_run_that_is_marked_and_wrong(rule: str) -> None:
    without = replace(Rules(), **{rule: False})
    assert any(search(without, SEARCHES[name])[1] for name in ("uploads", "changed"))


def test_without_removing_claims_that_were_found_no_copy_after_a_kill_is_ever_complete() -> None:
    left = start(writers=1)._replace(run=Run(claims=1 << 9))
    for removes in (True, False):
        state, rules = left, replace(Rules(), first_write_removes_found_claims=removes)
        while after := [state for _, _, _, state in moves(state, rules)]:
            (state,) = after
        complete = state.run.mark == state.version and not state.run.claims
        assert (state.writers[0].step, complete) == ("ended", removes)
