"""Starts model_to_run.py on random registries with random flags and faults, ends it at random, and starts it again.

    python tests/tools/fuzz.py --times 200 --parallel 2
    python tests/tools/fuzz.py --seed 17          one seed, and what was drawn for it

After a start that met one to three faults, and was perhaps killed or interrupted, comes a plain one. Then every copy is
exact, or the script says of each what is not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.neptune_server.process import ServerProcess
from tests.support.planted import Attribute, Planted, points, value
from tests.tools.torture import (
    DATASET,
    DATASET_FILE,
    TROUBLES,
    WELL,
    Play,
    all_equal,
    asked,
    bare_registry,
    folder,
    images,
    judge,
    lines,
    loss,
    marked_and_wrong,
    noise,
    on_servers,
    planted_file,
    planted_file_set,
    until,
)

OPERATIONS = (
    "searchLeaderboardEntries",
    "getExperimentAttributes",
    "createExperiment",
    "executeOperations",
    "downloadAttribute",
    "fileAtomUpload",
    "uploadFileSetAttributeTar",
    "getFloatSeriesValues",
    "getImageSeriesValue",
    "lsFileSetAttribute",
    "listProjects",
    "token",
)
FLAGS = ((), (), ("--verify",), ("--recopy",), ("--delete-files",), ("--recopy", "--verify"))
PATHS = ("a", "b/c", "b/d e", "ü/[x]", "monitoring/cpu", "source_code/entrypoint", "a.b/..", "n" * 120)


def any_field(chance: random.Random) -> Attribute:
    """One field of any type."""
    number = chance.randrange(1, 40)
    makers = (
        lambda: value("int", number),
        lambda: value("float", number / 7),
        lambda: value("bool", number % 2 == 0),
        lambda: value("string", "ż" * number * 500),
        lambda: value("datetime", 1_700_000_000_000 + number),
        lambda: {"type": "artifact", "hash": DATASET},
        lambda: {"type": "notebookRef", "notebookName": "n"},
        lambda: loss(number * 60),
        lambda: lines(number),
        lambda: images(number % 5 + 1),
        lambda: points("floatSeries", []),
        lambda: planted_file(noise(number * chance.choice((0, 1, 1000, 200_000)), number), "tar.gz"),
        lambda: planted_file_set({f"{at % 3}/{at}": noise(at * 100, at) for at in range(number)}),
    )
    made: Attribute = chance.choice(makers)()
    return made


@contextmanager
def any_registry(server: ServerProcess, chance: random.Random) -> Iterator[Planted]:
    """One to three models with up to four versions in all, each with some fields."""

    def fields() -> dict[str, Attribute]:
        return {path: any_field(chance) for path in chance.sample(PATHS, chance.randrange(len(PATHS)))}

    with bare_registry(server) as planted:
        server.instruments.add_artifact(planted.project, DATASET, [DATASET_FILE])
        models = [planted.model(fields(), key=f"M{number}") for number in range(chance.randrange(1, 4))]
        for _ in range(chance.randrange(5)):
            planted.version(chance.choice(models), fields())
        yield planted


def start_badly(planted: Planted, place: Path, chance: random.Random) -> list[str]:
    """Start the script with faults, and perhaps end it before its time; return in words what was done."""
    instruments, drawn = planted.server.instruments, []
    instruments.reset_counts()
    for _ in range(chance.randrange(1, 4)):
        operation, trouble = (
            chance.choice(OPERATIONS),
            chance.choice([one for one in TROUBLES if one.operations == ("",)]),
        )
        after, times = chance.randrange(6), chance.choice((1, 2, trouble.lasting))
        instruments.fault(operation, trouble.kind, after=after, times=times, **trouble.details)
        drawn.append(f"{operation}: {trouble.name}, {times} times after {after}")
    flags, end, requests = chance.choice(FLAGS), chance.choice(("", "", "kill", "interrupt")), chance.randrange(60)
    play = Play(planted, place, *flags)
    try:
        if end:
            until(lambda: asked(instruments) > requests or not play.is_running, 120)
        if end == "kill":
            play.kill()
        elif end and play.is_running and play.process.pid:
            os.kill(play.process.pid, signal.SIGINT)
        play.end()
    finally:
        instruments.clear_faults()
    return [*drawn, f"{' '.join(flags) or 'no flags'}, {end or 'to its end'} after {requests} requests"]


def play_seed(server: ServerProcess, seed: int) -> list[str]:
    """Return in words what was wrong after the plain start, and what had been drawn."""
    chance = random.Random(seed)
    with any_registry(server, chance) as planted, folder() as place:
        drawn = start_badly(planted, place, chance)
        wrong = marked_and_wrong(planted)
        verdict = judge(Play(planted, place).end(), planted)
        if verdict.word not in WELL:
            wrong += [verdict.word, *verdict.details]
        return [*wrong, *drawn] if wrong else []


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="how many seeds, from 0 on (default: 20)")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--parallel", type=int, default=2, help="servers at once (default: 2)")
    parser.add_argument("--index-lag", type=float, default=0.0, help="seconds that searches lag behind (default: 0)")
    options = parser.parse_args(arguments)
    seeds = range(options.times) if options.seed is None else [options.seed]
    return 0 if all_equal(len(seeds), on_servers(play_seed, seeds, options)) else 1


if __name__ == "__main__":
    sys.exit(main())
