"""Breaks the copying of a small registry in every way there is, and looks whether anything is lost or there twice.

    torture.py kill --times 200         kills the script after random numbers of requests
    torture.py kill --every-boundary    kills it between any two of its requests
    torture.py two --times 50           has two machines copy the same, slowed down and killed by chance
    torture.py late                     has each write request arrive late, at each later moment
    torture.py faults                   has each kind of request fail in each way
    torture.py outage --seconds 300     takes the server away in the middle
    torture.py load --objects 1000      measures memory, threads and open files

Exit status 1 if anything was not as it should be.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import os
import queue
import random
import re
import runpy
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

if sys.platform != "win32":
    import resource

import psutil
from tqdm import tqdm

# `tests` is a package in the repository's root, wherever this is started from.
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.neptune_server.faults import LATE_KINDS
from tests.neptune_server.process import REPOSITORY, Instruments, ServerProcess
from tests.support.comparison import differences, same
from tests.support.planted import Planted, points, value
from tests.support.registry import PART, encoded, noise, picture, planted_file, planted_file_set, planted_image
from tests.support.script import SCRIPT, Completed, environment, latest_log, latest_report
from tests.support.wire import Wire

# -- the script, run again and again --

FORKING = "forkserver" in multiprocessing.get_all_start_methods()
PROCESSES: Any = multiprocessing.get_context("forkserver" if FORKING else "spawn")
if FORKING:
    PROCESSES.set_forkserver_preload(["model_to_run"])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
ASKING = threading.Lock()
"""Held where a process is asked whether it has ended. `start()` asks all others, too, and whoever asks second finds
that the exit status has been taken, and makes it 255."""


class Play:
    """One run of the script in a process of its own, which finds its modules imported: that takes far longer than
    such a copy."""

    def __init__(
        self,
        planted: Planted,
        folder: Path,
        *arguments: str,
        largest_file: int | None = None,
        env: Mapping[str, str | None] | None = None,
    ):
        """`largest_file` is how many bytes a file may have, on systems that know such a limit."""
        self.folder = folder
        self._screen = folder / f"screen-{uuid.uuid4().hex[:8]}.txt"
        settings = environment(planted.server, env)
        wanted = ("--project", planted.project, "--workers", "2", *arguments)
        self.process = PROCESSES.Process(
            target=perform, args=(wanted, str(folder), settings, str(self._screen), largest_file), daemon=True
        )
        with ASKING:
            self.process.start()

    @property
    def is_running(self) -> bool:
        with ASKING:
            return bool(self.process.is_alive())

    @property
    def screen(self) -> str:
        return self._screen.read_text("utf-8") if self._screen.exists() else ""

    def kill(self) -> None:
        """As `kill -9` does, and on Windows the task manager."""
        with ASKING:
            self.process.kill()
        multiprocessing.connection.wait([self.process.sentinel])

    def end(self, seconds: float = 300) -> Completed:
        """Waits for its end, and kills it if that does not come: its exit status is then negative."""
        multiprocessing.connection.wait([self.process.sentinel], seconds)
        if self.is_running:
            self.kill()
        with ASKING:
            status = self.process.exitcode
        return Completed(status, self.screen, latest_log(self.folder), latest_report(self.folder))


def perform(
    arguments: tuple[str, ...], folder: str, settings: dict[str, str], screen: str, largest_file: int | None
) -> None:
    """What the process does."""
    if largest_file is not None and sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(settings)
    with open(screen, "wb", buffering=0) as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    for text in (sys.stdout, sys.stderr):
        text.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    # By itself it takes a lock from the system, which killed processes leave behind.
    tqdm.set_lock(threading.RLock())
    sys.argv = [str(SCRIPT), *arguments]
    runpy.run_path(str(SCRIPT), run_name="__main__")


@contextmanager
def folder() -> Iterator[Path]:
    """A working directory for the script."""
    made = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Comes back when something has happened."""
    latest = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > latest:
            raise TimeoutError("what was waited for has not happened")
        time.sleep(0.01)


def asked(instruments: Instruments, operation: str = "*") -> int:
    """How many requests have reached the server since its counts were reset."""
    requests: dict[str, int] = instruments.counts()["requests"]
    return sum(requests.values()) if operation == "*" else requests.get(operation, 0)


def complete(planted: Planted, place: Path, before: dict[str, Any] | None = None) -> list[str]:
    """Runs the script once more, which is enough to complete everything; what is wrong after that."""
    before = before or planted.state()
    ended = Play(planted, place).end()
    return problems(planted, before) if ended.status == 0 else [f"exit status {ended.status}", ended.output[-1000:]]


MARK = "old_sys/verified"
CLAIM = re.compile("incomplete copy [0-9a-f]{8}")


def problems(planted: Planted, before: dict[str, Any] | None = None) -> list[str]:
    """What is lost, or there twice, whole project against whole project.

    What complete copies had in them `before`, and the registry does not have, is to be there still.
    """
    state = planted.state()
    kinds = [each["kind"] for each in state["containers"].values()]
    sources = kinds.count("model") + kinds.count("modelVersion")
    found = differences(state, before=before)
    if kinds.count("run") != sources:
        found.append(f"{kinds.count('run')} runs for {sources} models and versions, those in the trash counted")
    return found


def marked_and_wrong(planted: Planted, before: dict[str, Any] | None = None) -> list[str]:
    """Tell what is wrong in the runs that look complete; each text begins with the ID of the source.

    The list has to be empty at any time, whatever the script has met. `before` is the same as for `problems`.
    """
    state = planted.state()
    living = {sys_id: each for sys_id, each in state["containers"].items() if not each["trashed"]}
    runs = [each["attributes"] for each in living.values() if each["kind"] == "run"]
    owners = {run["old_sys/id"]["value"] for run in runs if "old_sys/id" in run and is_complete(run, living)}
    found = differences(state, before=before)
    return [f"{words} (marked as complete)" for words in found if words.partition(": ")[0] in owners]


def is_complete(run: dict[str, Any], living: dict[str, Any]) -> bool:
    """Tell whether a run looks complete: its mark is its source's present time, and it has no claim."""
    source = living.get(run["old_sys/id"]["value"])
    tags = run.get("sys/tags", {}).get("value", ())
    if source is None or any(CLAIM.fullmatch(tag) for tag in tags):
        return False
    return MARK in run and same(source["attributes"]["sys/modification_time"], run[MARK])


# -- a small registry that has everything --

EXPERIMENTS = "/api/leaderboard/v1/experiments"
DATASET = "5" * 64
DATASET_FILE = {
    "filePath": "data/train.csv",
    "fileHash": "6" * 40,
    "size": 12,
    "type": "Local",
    "metadata": [],
}


def loss(count: int) -> dict[str, Any]:
    series = points(
        "floatSeries", [[step / 2 - 3, 1_700_000_000_001 + 7 * step, 1 / (step + 3)] for step in range(count)]
    )
    return {**series, "config": {"min": -0.5, "max": 2.0, "unit": "nats"}}


def lines(count: int) -> dict[str, Any]:
    return points("stringSeries", [[step / 4, 1_700_000_000_999 + step, f"line {step}"] for step in range(count)])


def images(count: int) -> dict[str, Any]:
    entries = [
        [number + 0.5, 1_700_000_000_000 + number, planted_image(picture(number), f"№ {number}", "a\nb")]
        for number in range(count)
    ]
    return points("imageSeries", entries)


@contextmanager
def small_registry(server: ServerProcess) -> Iterator[Planted]:
    """A model and a version with every type of field, in a project that is gone afterwards. An earlier copy of the
    model, which was never finished, is in the trash."""
    project = new_project(server)
    server.instruments.add_artifact(project, DATASET, [DATASET_FILE])
    planted = Planted(server, project)
    model = planted.model(
        {
            "sys/name": value("string", "Wärter"),
            "sys/tags": value("stringSet", ["mine", "a,b"]),
            "sys/group_tags": value("stringSet", ["group"]),
            "params/depth": value("int", 3),
            "params/rate": value("float", 0.1),
            "params/shuffled": value("bool", True),
            "params/solver": value("string", "sgd"),
            "trained": value("datetime", 1_700_000_000_001),
            "note": value("string", "to be removed"),
            "data": {"type": "artifact", "hash": DATASET},
            "metrics/loss": loss(30),
            "log": lines(12),
            "weights": planted_file(b"weights", "tar.gz"),
            "one file": planted_file_set({"a/[b] c.txt": b"alone"}),
        }
    )
    planted.version(
        model,
        {
            "sys/stage": value("string", "staging"),
            "images": images(3),
            "large": planted_file(noise(PART + 1, seed=1), "bin"),
            "files": planted_file_set({"large": noise(PART + 1, seed=2), "a/b.txt": b"b", "a/c/.d": b"", "e": b"e"}),
            "metrics/loss": loss(5),
        },
    )
    leave_half_a_copy(Planted(server, project), model)
    server.instruments.catch_up()
    try:
        yield planted
    finally:
        delete_project(server, project)


@contextmanager
def bare_registry(server: ServerProcess) -> Iterator[Planted]:
    """A project without models, to be filled. It is gone afterwards, and so are the faults that a test has ordered."""
    project = new_project(server)
    try:
        yield Planted(server, project)
    finally:
        server.instruments.clear_faults()
        delete_project(server, project)


def new_project(server: ServerProcess) -> str:
    project = f"acme/t-{uuid.uuid4().hex[:12]}"
    server.instruments.create_project(project)
    return project


def delete_project(server: ServerProcess, project: str) -> None:
    """Frees its disk."""
    Wire(server).session.delete(f"{server.url}/api/backend/v1/projects", params={"projectIdentifier": project})


def leave_half_a_copy(planted: Planted, source_id: str) -> None:
    wanted = {"projectIdentifier": planted.project, "parentId": "", "type": "run", "customId": source_id}
    run = planted.wire.post(EXPERIMENTS, wanted).json()
    entries = [{"step": 9.0, "timestampMilliseconds": 5, "value": 9.0}]
    planted.wire.execute(
        run["id"],
        {"path": "old_sys/id", "assignString": {"value": source_id}},
        {"path": "left over", "assignInt": {"value": 1}},
        {"path": "metrics/loss", "logFloats": {"entries": entries}},
    )
    trash = f"{EXPERIMENTS}/trash"
    planted.wire.post(trash, [run["shortId"]], projectIdentifier=planted.project).raise_for_status()


def change(planted: Planted) -> None:
    """Changes the registry in every way: fields that are new, gone, shorter, of another type."""
    model, version = sources(planted)
    planted.server.instruments.set_attribute(planted.project, model, "note", None)
    planted.put(
        model,
        {
            "sys/tags": value("stringSet", ["other"]),
            "params/depth": value("float", 3.5),
            "params/solver": value("string", "adam"),
            "metrics/loss": loss(20),
            "log": value("string", "a text now"),
            "weights": planted_file(b"other weights", "bin"),
            "one file": planted_file_set({"a/other.txt": b"alone"}),
            "added": value("bool", False),
        },
    )
    planted.put(
        version,
        {
            "sys/stage": value("string", "production"),
            "images": images(2),
            "files": planted_file_set({"a/b.txt": b"another b", "new": b""}),
        },
    )


def sources(planted: Planted) -> list[str]:
    """The IDs of the models and versions, a model before its versions."""
    return sorted(sys_id for sys_id, each in planted.state()["containers"].items() if each["kind"] in SOURCE_KINDS)


SOURCE_KINDS = ("model", "modelVersion")


# -- several at once, each on a server of its own --

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_servers(
    work: Callable[[ServerProcess, Item], Result], items: Iterable[Item], options: argparse.Namespace
) -> Iterator[tuple[Item, Result]]:
    """Does the work for each item; gives the results in the items' order."""
    number = options.parallel
    wanted = list(items)
    free: queue.SimpleQueue[ServerProcess] = queue.SimpleQueue()

    def do(item: Item) -> Result:
        server = free.get()
        try:
            return work(server, item)
        finally:
            free.put(server)

    with ExitStack() as stack:
        for _ in range(number):
            free.put(stack.enter_context(ServerProcess("--index-lag", str(options.index_lag))))
        pool = stack.enter_context(ThreadPoolExecutor(number))
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        yield from zip(wanted, pool.map(do, wanted))


# -- killed --

HELD = 1.0
"""Seconds, for which the server sits on a request while the script is killed."""


@dataclass(frozen=True)
class Round:
    kind: str
    """`first` copy; `again`, when a whole one is there and its source has changed; `recopy`, when it has not."""
    requests: tuple[int, ...]
    """How many are let through before the script is killed, for each time that it is."""


KINDS: dict[str, tuple[str, ...]] = {"first": (), "again": (), "recopy": ("--recopy", "--verify")}
"""With the arguments of the run that is killed."""


def prepare(planted: Planted, kind: str, place: Path) -> None:
    if kind != "first":
        found = complete(planted, place)
        if found:
            raise RuntimeError(f"not even an undisturbed copy is whole: {found}")
    if kind == "again":
        change(planted)
    planted.server.instruments.catch_up()


def undisturbed(server: ServerProcess, kind: str, *arguments: str) -> dict[str, int]:
    """The requests of a run that nothing happens to, by their operations."""
    with small_registry(server) as planted, folder() as place:
        prepare(planted, kind, place)
        server.instruments.reset_counts()
        before = planted.state()
        ended = Play(planted, place, *KINDS[kind], *arguments).end()
        if ended.status != 0 or problems(planted, before):
            raise RuntimeError(f"not even an undisturbed copy is whole: {ended.output}")
        requests: dict[str, int] = server.instruments.counts()["requests"]
        return requests


def play_round(server: ServerProcess, wanted: Round) -> list[str]:
    """Kills the script as often as wanted, then lets it go on; what is wrong after that."""
    with small_registry(server) as planted, folder() as place:
        prepare(planted, wanted.kind, place)
        before = planted.state()
        found = []
        for requests in wanted.requests:
            kill_after(planted, place, requests, *KINDS[wanted.kind])
            found += marked_and_wrong(planted, before)
        return found + complete(planted, place, before)


def kill_after(planted: Planted, place: Path, requests: int, *arguments: str, operation: str = "*") -> None:
    """Kills the script when so many requests have been carried out, and the next one has only arrived."""
    instruments = planted.server.instruments
    instruments.reset_counts()
    instruments.fault(operation, "delay", after=requests, times=None, seconds=HELD)
    play = Play(planted, place, *arguments)
    try:
        until(partial(is_beyond, requests, operation, instruments, play))
    finally:
        play.kill()
        instruments.clear_faults()
        # What a killed process has asked for is not to be carried out later: its token does not count any more.
        instruments.expire_tokens()


def random_rounds(times: int, seed: int, numbers: dict[str, int]) -> list[Round]:
    """Every fourth round kills the script that goes on, too."""
    chance = random.Random(seed)
    rounds = []
    for number in range(times):
        kind = chance.choice(sorted(numbers))
        kills = 2 if number % 4 == 3 else 1
        rounds.append(Round(kind, tuple(chance.randint(0, numbers[kind]) for _ in range(kills))))
    return rounds


def every_round(numbers: dict[str, int]) -> list[Round]:
    return [Round(kind, (requests,)) for kind, number in numbers.items() for requests in range(number + 1)]


def torture_by_killing(options: argparse.Namespace) -> bool:
    with ServerProcess() as server:
        numbers = {kind: sum(undisturbed(server, kind).values()) for kind in KINDS}
    print(f"Requests of an undisturbed run: {numbers}")
    rounds = every_round(numbers) if options.every_boundary else random_rounds(options.times, options.seed, numbers)
    return all_equal(len(rounds), on_servers(play_round, rounds, options))


def all_equal(rounds: int, results: Iterable[tuple[Any, list[str]]]) -> bool:
    """Tells how it goes, and whether nothing was wrong in any round."""
    equal = 0
    for number, (wanted, found) in enumerate(results, 1):
        equal += not found
        if found:
            print(f"{wanted}: " + "\n  ".join(found), flush=True)
        if found or number % 10 == 0:
            print(f"{number} of {rounds} rounds, {equal} equal", flush=True)
    print(f"{equal} of {rounds} equal")
    return equal == rounds


# -- two at once --

SLOWED = (
    "createExperiment",
    "executeOperations",
    "fileAtomUpload",
    "fileSetFileMultipartUploadPart",
    "getExperimentAttributes",
    "uploadFileSetAttributeTar",
)
LONGEST_DELAY = 1.5


def play_two(server: ServerProcess, seed: int) -> list[str]:
    """Two machines copy the same at once; what is wrong when both say that all is well, or after the next run."""
    chance = random.Random(seed)
    with small_registry(server) as planted, folder() as place:
        prepare(planted, chance.choice(("first", "again")), place)
        before = planted.state()
        try:
            statuses = [play.end().status for play in start_two(planted, place, chance)]
        finally:
            server.instruments.clear_faults()
        if min(statuses) < 0:  # What a killed one has asked for may still be carried out.
            time.sleep(LONGEST_DELAY)
        found = problems(planted, before) if statuses == [0, 0] else marked_and_wrong(planted, before)
        return found + complete(planted, place, before)


def start_two(planted: Planted, place: Path, chance: random.Random) -> list[Play]:
    """The second starts somewhere in the first one's course; one of them may be killed."""
    instruments = planted.server.instruments
    instruments.reset_counts()
    for _ in range(chance.randint(1, 4)):
        seconds = chance.choice((0.3, 0.8, LONGEST_DELAY))
        instruments.fault(chance.choice(SLOWED), "delay", seconds=seconds, after=chance.randint(0, 6))
    plays: list[Play] = []
    for name in ("one", "other"):
        (place / name).mkdir()
        plays.append(Play(planted, place / name))
        until(partial(is_beyond, chance.randint(0, 60), "*", instruments, plays[-1]))
    if chance.random() < 0.4:
        latest = chance.randint(20, 150)
        until(lambda: asked(instruments) > latest or not any(play.is_running for play in plays))
        chance.choice(plays).kill()
    return plays


def torture_by_two(options: argparse.Namespace) -> bool:
    seeds = range(options.seed, options.seed + options.times)
    return all_equal(options.times, on_servers(play_two, seeds, options))


# -- with requests that arrive late --

WRITING = ("executeOperations", "Upload", "uploadFileSet", "restoreExperiments", "createExperiment")
"""Parts of the names of the operations that write."""
ALONE = ("--workers", "1")
"""With one object after the other, the requests come in much the same order each time."""
MORE = 4
"""A write that is repeated costs a run about so many more requests: the repetition, and a new claim."""


@dataclass(frozen=True)
class Lateness:
    """A write request that is reset, and arrives after some more requests about its run."""

    kind: str
    """As a `Round` has it."""
    fault: str
    """`late`, or `repeated_late` if it is carried out at once as well."""
    operation: str
    number: int
    """Among those of its operation, from 0."""
    requests: int

    def __str__(self) -> str:
        return f"{self.kind}, {self.operation} {self.number}, {self.fault} by {self.requests}"


def latenesses(server: ServerProcess, kind: str) -> list[Lateness]:
    """List every write request of an undisturbed run, with every later moment at which it may arrive."""
    undisturbed(server, kind, *ALONE)
    log = server.instruments.log()
    seen: Counter[str] = Counter()
    found = []
    for index, (_, operation, _, container) in enumerate(log):
        if any(part in operation for part in WRITING):
            following = Counter(entry[3] for entry in log[index + 1 :])
            # The log names no run for the requests that create or restore one.
            latest = (following[container] if container else max(following.values())) + MORE
            moments = [(fault, requests) for fault in LATE_KINDS for requests in range(latest + 1)]
            found += [Lateness(kind, fault, operation, seen[operation], requests) for fault, requests in moments]
        seen[operation] += 1
    return found


def play_late(server: ServerProcess, wanted: Lateness) -> list[str]:
    """Make a request arrive late; tell what looks complete and is wrong, and what is wrong after the next start."""
    instruments = server.instruments
    with small_registry(server) as planted, folder() as place:
        prepare(planted, wanted.kind, place)
        before = planted.state()
        instruments.fault(wanted.operation, wanted.fault, after=wanted.number, requests=wanted.requests)
        try:
            ended = Play(planted, place, *ALONE, *KINDS[wanted.kind]).end()
            found = [] if ended.status in (0, 1) else [f"exit status {ended.status}", ended.output[-1000:]]
            found += marked_and_wrong(planted, before)
            if instruments.arrive():
                found += marked_and_wrong(planted, before)
            found += [] if instruments.late() else ["no such request was made"]
        finally:
            instruments.clear_faults()
        instruments.catch_up()
        return found + complete(planted, place, before)


def torture_by_lateness(options: argparse.Namespace) -> bool:
    with ServerProcess() as server:
        wanted = [lateness for kind in KINDS for lateness in latenesses(server, kind)]
    print(f"{len(wanted)} cells")
    if options.times:
        wanted = random.Random(options.seed).sample(wanted, min(options.times, len(wanted)))
    return all_equal(len(wanted), on_servers(play_late, wanted, options))


# -- with faults --

COPIED, FAILED, NO_START, NOT_MET = "copied", "failed and said so", "could not start", "-"
TOLD = "copied but for what it says"
LOST, CRASHED, HUNG, NOT_MENDED = "LOST", "CRASHED", "HUNG", "NOT MENDED"
WELL = (COPIED, FAILED, NO_START, NOT_MET, TOLD)


@dataclass(frozen=True)
class Trouble:
    """Something that can happen to a request, in the words of `Instruments.fault`."""

    name: str
    kind: str
    details: dict[str, Any] = field(default_factory=dict)
    lasting: int | None = 3
    """How often it happens when it happens repeatedly; None is for ever."""
    operations: tuple[str, ...] = ("",)
    """Parts of the names of the operations that it can happen to."""


UPLOADS = ("Upload", "uploadFileSet")
EXPIRY = "token expires"
TROUBLES = (
    Trouble("429, come back in 1 s", "status", {"status": 429, "headers": {"Retry-After": "1"}}),
    *(Trouble(str(status), "status", {"status": status}) for status in (429, 500, 502, 503, 504, 401)),
    *(Trouble(str(status), "status", {"status": status}, None) for status in (400, 403, 404)),
    Trouble("a proxy's page", "status", {"status": 200, "body": "<html>Sign in</html>"}),
    Trouble("reset", "reset"),
    Trouble("reset while it is sent", "reset_body", {"bytes": 1000}, operations=UPLOADS),
    Trouble("answer cut short", "truncate", {"bytes": 1}),
    Trouble("answer lost", "lost_answer"),
    Trouble("error in the answer", "operation_error", {"body": "no"}, None, (*UPLOADS, "executeOperations")),
    Trouble("late", "delay", {"seconds": 0.3}, None),
    Trouble(EXPIRY, "delay", {"seconds": 0.7}),
)
OCCASIONS = ("first", "last", "repeatedly")


@dataclass(frozen=True)
class Cell:
    operation: str
    trouble: Trouble
    occasion: str
    requests: int
    """How often an undisturbed run asks for the operation."""

    @property
    def after(self) -> int:
        return self.requests - 1 if self.occasion == "last" else 0

    @property
    def times(self) -> int | None:
        return self.trouble.lasting if self.occasion == "repeatedly" else 1

    def __str__(self) -> str:
        return f"{self.operation}, {self.trouble.name}, {self.occasion}"


@dataclass(frozen=True)
class Verdict:
    word: str
    details: list[str]


def cells(requests: dict[str, int], operation: str | None = None) -> list[Cell]:
    return [
        Cell(name, trouble, occasion, number)
        for name, number in sorted(requests.items())
        if operation in (None, name)
        for trouble in TROUBLES
        if any(part in name for part in trouble.operations)
        for occasion in OCCASIONS
        if occasion != "last" or number > 1
    ]


def meet(server: ServerProcess, cell: Cell) -> Verdict:
    """Lets the script meet a fault, and then go on without one."""
    instruments = server.instruments
    with small_registry(server) as planted, folder() as place:
        instruments.reset_counts()
        trouble = cell.trouble
        instruments.fault(cell.operation, trouble.kind, after=cell.after, times=cell.times, **trouble.details)
        try:
            play = Play(planted, place)
            if trouble.name == EXPIRY:
                expire_at(cell, instruments, play)
            ended = play.end()
            met = asked(instruments, cell.operation) > cell.after
        finally:
            instruments.clear_faults()
        verdict = judge(ended, planted) if met else Verdict(NOT_MET, [])
        if ended.status != 0 and verdict.word in WELL:
            verdict = mended(verdict, planted, place)
        return verdict


def expire_at(cell: Cell, instruments: Instruments, play: Play) -> None:
    """Has tokens expire while the requests that carry them are on their way."""
    for number in range(cell.times or 1):
        with suppress(TimeoutError):
            until(partial(is_beyond, cell.after + number, cell.operation, instruments, play), 20)
            instruments.expire_tokens()


def is_beyond(number: int, operation: str, instruments: Instruments, play: Play) -> bool:
    return asked(instruments, operation) > number or not play.is_running


def judge(ended: Completed, planted: Planted) -> Verdict:
    """Whether the script says of itself what is true."""
    shown = ended.output.splitlines()[-30:]
    if ended.status < 0:
        return Verdict(HUNG, shown)
    if "Traceback" in ended.output or "Logging error" in ended.output or ended.status not in (0, 1, 2):
        return Verdict(CRASHED, shown)
    if ended.status == 2:
        sentence = [line for line in shown if line.startswith("model_to_run: ")]
        return Verdict(NO_START if len(sentence) == 1 else CRASHED, shown)
    found = differences(planted.state())
    hidden = [words for words in found if not is_named(words.partition(": ")[0], ended) and not is_told(words, ended)]
    if hidden:
        return Verdict(LOST, [*hidden, *shown])
    return Verdict(FAILED if ended.status else TOLD if found else COPIED, shown)


def is_named(sys_id: str, ended: Completed) -> bool:
    """Whether an object is told to have failed, with a reason, on the screen, in the log and in the report."""
    rows = [row for row in ended.report if row["source ID"] == sys_id]
    failed = bool(rows) and rows[0]["status"] == "failed" and bool(rows[0]["error"])
    return failed and f"{sys_id}: failed: " in ended.log and f"\n  {sys_id}  " in ended.output and ended.status == 1


def is_told(words: str, ended: Completed) -> bool:
    """Whether what differs is a loss of what images have beside them, which some servers do not tell."""
    sys_id, path, _ = words.split(": ", 2)
    (row,) = [row for row in ended.report if row["source ID"] == sys_id]
    loss = f"{path} (steps, times, names and descriptions of "
    return all(loss in told for told in (row["error"], ended.output, ended.log))


def mended(verdict: Verdict, planted: Planted, place: Path) -> Verdict:
    """A run without faults makes everything good."""
    found = complete(planted, place)
    return Verdict(NOT_MENDED, [*found, "after:", *verdict.details]) if found else verdict


def torture_by_faults(options: argparse.Namespace) -> bool:
    with ServerProcess() as server:
        requests = undisturbed(server, "first")
    wanted = cells(requests, options.operation)
    print(f"{len(wanted)} cells")
    bad: list[tuple[Cell, Verdict]] = []
    row: list[str] = []
    for number, (cell, verdict) in enumerate(on_servers(meet, wanted, options)):
        row.append(f"{cell.occasion}: {verdict.word}")
        if verdict.word not in WELL:
            bad.append((cell, verdict))
        if number + 1 == len(wanted) or wanted[number + 1].trouble is not cell.trouble:
            print(f"{cell.operation:40} {cell.trouble.name:24} {'; '.join(row)}", flush=True)
            row = []
    for cell, verdict in bad:
        print(f"\n{cell}: {verdict.word}\n  " + "\n  ".join(verdict.details))
    print(f"\n{len(wanted) - len(bad)} of {len(wanted)} well")
    return not bad


# -- without a server for a while --


def outage(server: ServerProcess, seconds: float, kind: str) -> tuple[Completed, list[str]]:
    """Takes the server away when half of the requests have been made."""
    middle = sum(undisturbed(server, "first").values()) // 2
    with small_registry(server) as planted, folder() as place:
        server.instruments.reset_counts()
        play = Play(planted, place)
        until(lambda: asked(server.instruments) > middle)
        server.instruments.outage(seconds, kind)
        ended = play.end(seconds + 300)
        server.instruments.clear_faults()
        return ended, problems(planted)


def torture_by_outage(options: argparse.Namespace) -> bool:
    with ServerProcess() as server:
        ended, found = outage(server, options.seconds, options.kind)
    print(ended.output)
    print("\n".join(found) or "Nothing differs.")
    return ended.status == 0 and not found and "waiting" in ended.output


# -- with many objects --


@dataclass(frozen=True)
class Sample:
    copies: int
    memory: int
    threads: int
    files: int


def load(server: ServerProcess, objects: int, workers: int) -> tuple[Completed, list[Sample], list[str]]:
    """Watches the script from outside while it copies small objects."""
    with many_objects(server, objects) as planted, folder() as place:
        server.instruments.reset_counts()
        play = Play(planted, place, "--workers", str(workers))
        samples = list(watch(play, server.instruments))
        return play.end(), samples, problems(planted)


@contextmanager
def many_objects(server: ServerProcess, number: int) -> Iterator[Planted]:
    project = new_project(server)
    planted = Planted(server, project)
    model = planted.model({"depth": value("int", 1)})
    content = {"type": "file", "content": encoded(b"weights"), "ext": "bin", "name": "w"}
    for each in range(1, number):
        planted.version(model, {"depth": value("int", each), "loss": loss(20), "weights": content})
    yield planted
    delete_project(server, project)


def watch(play: Play, instruments: Instruments) -> Iterator[Sample]:
    process = psutil.Process(play.process.pid)
    with suppress(psutil.Error):
        while play.is_running:
            copies = asked(instruments, "createExperiment")
            yield Sample(copies, process.memory_info().rss, process.num_threads(), open_files(process))
            time.sleep(0.05)


def open_files(process: psutil.Process) -> int:
    if sys.platform == "win32":
        return int(process.num_handles())
    return int(process.num_fds())


def growth(samples: list[Sample]) -> float:
    """Bytes an object, over the second half: by then, each worker has had its first ones."""
    copies = samples[-1].copies
    half = next(sample for sample in samples if sample.copies >= copies / 2)
    return (samples[-1].memory - half.memory) / max(1, copies - half.copies)


def torture_by_load(options: argparse.Namespace) -> bool:
    with ServerProcess() as server:
        ended, samples, found = load(server, options.objects, options.workers)
    print(ended.output)
    print(f"{'copies':>8} {'memory':>10} {'threads':>8} {'open files':>10}")
    for sample in samples[:: max(1, len(samples) // 20)]:
        print(f"{sample.copies:8} {sample.memory / 1e6:7.1f} MB {sample.threads:8} {sample.files:10}")
    print(f"{growth(samples) / 1000:.1f} kB an object; at most {max(sample.threads for sample in samples)} threads")
    print("\n".join(found) or "Nothing differs.")
    return ended.status == 0 and not found


# -- the command line --


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    kill = commands.add_parser("kill")
    kill.add_argument("--times", type=int, default=200)
    kill.add_argument("--seed", type=int, default=1)
    kill.add_argument("--every-boundary", action="store_true")
    kill.set_defaults(torture=torture_by_killing)
    two = commands.add_parser("two")
    two.add_argument("--times", type=int, default=50)
    two.add_argument("--seed", type=int, default=1)
    two.set_defaults(torture=torture_by_two)
    faults = commands.add_parser("faults")
    faults.add_argument("--operation", help="that one alone")
    faults.set_defaults(torture=torture_by_faults)
    late = commands.add_parser("late")
    late.add_argument("--times", type=int, help="so many of the table's cells, by chance")
    late.add_argument("--seed", type=int, default=1)
    late.set_defaults(torture=torture_by_lateness)
    for each in (kill, two, faults, late):
        each.add_argument("--parallel", type=int, default=2, metavar="N", help="so many at once")
        each.add_argument("--index-lag", type=float, default=0, metavar="S", help="how far the servers' searches lag")
    away = commands.add_parser("outage")
    away.add_argument("--seconds", type=float, default=300)
    away.add_argument("--kind", choices=("status", "reset"), default="reset")
    away.set_defaults(torture=torture_by_outage)
    many = commands.add_parser("load")
    many.add_argument("--objects", type=int, default=1000)
    many.add_argument("--workers", type=int, default=16)
    many.set_defaults(torture=torture_by_load)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parsed()
    sys.exit(not options.torture(options))
