"""Measures model_to_run.py on a registry behind an emulated line.

    python tests/tools/benchmark.py                  86 models and versions, 510 MB, 340/110 Mbit/s, 28 ms, 20 workers
    python tests/tools/benchmark.py --workers 1 --repeat 3
    python tests/tools/benchmark.py --shape many          1,000 small objects, 16 workers
    python tests/tools/benchmark.py --shape series        one version with two series of 200,000 points
    python tests/tools/benchmark.py --shape one           one version with one file of 500 MB
    python tests/tools/benchmark.py --shape wide          one version with 1,000 short series, 2,000 values, 100 files
    python tests/tools/benchmark.py --shape images        one version with a file series of 1,000 images
    python tests/tools/benchmark.py --shape folders       one version with a file set of 1,000 files in 500 folders
    python tests/tools/benchmark.py --again               a second run, with nothing changed

The server, the line and the script run in a process each; the registry is filled past the line. Two processors are
needed for that, and nothing else running on them.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.neptune_server.process import ServerProcess
from tests.support.comparison import differences
from tests.support.script import SCRIPT, environment
from tests.support.wire import ATTRIBUTES, Wire
from tests.tools.line import Carried, Line, Speed

PROJECT = "acme/benchmark"
MEGABYTE = 1_000_000
NOISE = 64 * MEGABYTE
LOOK_SECONDS = 0.02
START = 1_700_000_000_000
COPYING_BEGINS = "Log: "
SEARCH = "searchLeaderboardEntries"
TABLE_PAGE = 100


# -- filling a registry --


class Filler:
    """Fills the project's registry, straight on the server."""

    def __init__(self, server: ServerProcess) -> None:
        self.wire = Wire(server)
        self.random = random.Random(0)

    def model(self, number: int) -> tuple[str, str]:
        """Comes back with the model's internal and its visible ID."""
        return self._create(type="model", key=f"MODEL{number}", parentId="")

    def version(self, model: tuple[str, str]) -> str:
        return self._create(type="modelVersion", parentId=f"{PROJECT}/{model[1]}")[0]

    def _create(self, **wanted: str) -> tuple[str, str]:
        answer = self.wire.post("/api/leaderboard/v1/experiments", {"projectIdentifier": PROJECT, **wanted})
        answer.raise_for_status()
        created = answer.json()
        return created["id"], created["shortId"]

    def assign(self, container: str, *operations: Mapping[str, Any]) -> None:
        complaints = self.wire.execute(container, *operations)
        assert not complaints, complaints

    def file(self, container: str, path: str, size: int, extension: str = "bin") -> None:
        parameters = {"experimentIdentifier": container, "attribute": path, "ext": extension}
        self._upload("storage/file/upload", self._noise(size), **parameters)

    def file_set(self, container: str, path: str, sizes: Mapping[str, int]) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, size in sizes.items():
                member = tarfile.TarInfo(name)
                member.size = size
                tar.addfile(member, io.BytesIO(self._noise(size)))
        self._upload("uploadFileSetTar", packed.getvalue(), experimentId=container, attribute=path)

    def _upload(self, kind: str, content: bytes, **parameters: str) -> None:
        answer = self.wire.post(f"{ATTRIBUTES}/{kind}", content, **parameters)
        answer.raise_for_status()
        complaints = (answer.json() or {}).get("errors") if answer.content else None
        assert not complaints, complaints

    def atoms(self, number: int) -> list[dict[str, Any]]:
        return [
            {"path": "parameters/depth", "assignInt": {"value": number}},
            {"path": "parameters/rate", "assignFloat": {"value": self.random.random()}},
            {"path": "parameters/optimizer", "assignString": {"value": "adam"}},
            {"path": "parameters/shuffle", "assignBool": {"value": True}},
            {"path": "trained", "assignDatetime": {"valueMilliseconds": START + number}},
        ]

    def floats(self, path: str, count: int) -> dict[str, Any]:
        return self._points(path, "logFloats", [self.random.random() for _ in range(count)])

    def texts(self, path: str, count: int) -> dict[str, Any]:
        return self._points(path, "logStrings", [f"epoch {index} of {count} is over" for index in range(count)])

    def images(self, path: str, sizes: list[int]) -> dict[str, Any]:
        contents = [base64.b64encode(self._noise(size)).decode() for size in sizes]
        return self._points(path, "logImages", [{"data": each, "name": "confusion"} for each in contents])

    def _points(self, path: str, operation: str, values: list[Any]) -> dict[str, Any]:
        entries = [
            {"step": index, "timestampMilliseconds": START + 1001 * index, "value": value}
            for index, value in enumerate(values)
        ]
        return {"path": path, operation: {"entries": entries}}

    def _noise(self, size: int) -> bytes:
        """Bytes that cannot be compressed. There is a limit to how many come at once."""
        sizes = [NOISE] * (size // NOISE) + [size % NOISE]
        return b"".join(self.random.randbytes(each) for each in sizes)

    def parts(self, total: int, count: int, spread: float) -> list[int]:
        """Splits a number of bytes at random: the larger the spread, the more the parts differ."""
        weights = [self.random.lognormvariate(0, spread) for _ in range(count)]
        return [int(total * weight / sum(weights)) for weight in weights]


def fill_registry(filler: Filler, objects: int, size: int) -> None:
    """One object in seven is a model, which has few fields. Versions have all kinds of fields, and all the bytes."""
    models = max(1, objects // 7)
    sizes = filler.parts(size, max(1, objects - models), spread=0.8)
    for number in range(models):
        model = filler.model(number)
        filler.assign(model[0], *filler.atoms(number), filler.images("example", [2000] * 3))
        filler.file(model[0], "readme", 4000, "md")
        for version_size in sizes[number::models]:
            _fill_version(filler, filler.version(model), version_size)


def _fill_version(filler: Filler, version: str, size: int) -> None:
    weights, folder, pictures = size * 7 // 10, size * 2 // 10, size // 10
    files = filler.parts(folder, 12, spread=1)
    filler.file(version, "model/weights", weights)
    filler.file(version, "model/settings", 2000, "yaml")
    filler.file_set(version, "data", {f"part {index % 3}/{index}.npy": each for index, each in enumerate(files)})
    filler.assign(version, filler.images("validation/confusion", filler.parts(pictures, 8, spread=0.3)))
    metrics = [filler.floats(f"metrics/{name}", 300) for name in ("loss", "accuracy", "recall")]
    filler.assign(version, *filler.atoms(1), *metrics, filler.texts("training/log", 100))


def fill_many(filler: Filler, objects: int, _: int) -> None:
    """One object in 25 is a model."""
    for number in range(objects):
        if number % 25 == 0:
            model = filler.model(number)
            container = model[0]
        else:
            container = filler.version(model)
        filler.assign(container, *filler.atoms(number), filler.floats("loss", 20))


def fill_series(filler: Filler, _: int, __: int) -> None:
    version = filler.version(filler.model(0))
    for name in ("loss", "accuracy"):
        filler.assign(version, filler.floats(name, 200_000))


def fill_one(filler: Filler, _: int, size: int) -> None:
    filler.file(filler.version(filler.model(0)), "model/weights", size)


def fill_wide(filler: Filler, _: int, __: int) -> None:
    version = filler.version(filler.model(0))
    for number in range(1000):
        filler.assign(version, filler.floats(f"metrics/{number}", 20))
    for half in (range(1000), range(1000, 2000)):
        filler.assign(version, *({"path": f"value/{number}", "assignFloat": {"value": number / 7}} for number in half))
    for number in range(100):
        filler.file(version, f"file/{number}", 4000)


def fill_images(filler: Filler, _: int, __: int) -> None:
    filler.assign(filler.version(filler.model(0)), filler.images("validation/confusion", [2000] * 1000))


def fill_folders(filler: Filler, _: int, __: int) -> None:
    sizes = {f"part {index % 500}/{index}.npy": 200 for index in range(1000)}
    filler.file_set(filler.version(filler.model(0)), "data", sizes)


@dataclass(frozen=True)
class Shape:
    fill: Callable[[Filler, int, int], None]
    objects: int
    megabytes: float
    workers: int
    is_one_file: bool = False
    """All of it has come down before any of it can go up."""


SHAPES = {
    "registry": Shape(fill_registry, 86, 510, 20),
    "many": Shape(fill_many, 1000, 0, 16),
    "series": Shape(fill_series, 2, 0, 20),
    "one": Shape(fill_one, 2, 500, 20, is_one_file=True),
    "wide": Shape(fill_wide, 2, 0, 20),
    "images": Shape(fill_images, 2, 0, 20),
    "folders": Shape(fill_folders, 2, 0, 20),
}


# -- measuring a run --


@dataclass(frozen=True)
class Used:
    """What a process has used."""

    seconds: float
    start_seconds: float
    """Until the copying began: imports, sign-in, tables."""
    memory: int
    threads: int
    processor_seconds: float


@dataclass(frozen=True)
class Measured:
    used: Used
    carried: Carried
    requests: Counter[str]
    server_processor_seconds: float


class Watch:
    """Looks at a process as long as it runs."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.ended = threading.Event()
        self.memory = self.threads = 0
        self.processor_seconds = 0.0
        self.thread = threading.Thread(target=self._look_often)
        self.thread.start()

    def _look_often(self) -> None:
        while not self.ended.wait(LOOK_SECONDS):
            try:
                with self.process.oneshot():
                    self.memory = max(self.memory, self.process.memory_info().rss)
                    self.threads = max(self.threads, self.process.num_threads())
                    self.processor_seconds = max(self.processor_seconds, processor_seconds(self.process))
            except psutil.NoSuchProcess:
                return

    def end(self) -> None:
        self.ended.set()
        self.thread.join()


def processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def run(command: list[str], env: dict[str, str], folder: Path) -> Used:
    """Runs the script to its end, which has to be a good one."""
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    watch = Watch(process.pid)
    assert process.stdout is not None
    said, start_seconds = [], 0.0
    for line in process.stdout:
        said.append(line)
        if line.startswith(COPYING_BEGINS):
            start_seconds = time.monotonic() - began
    status = process.wait()
    seconds = time.monotonic() - began
    watch.end()
    if status:
        raise SystemExit(f"The script ended with status {status}:\n{''.join(said)}")
    return Used(seconds, start_seconds, watch.memory, watch.threads, watch.processor_seconds)


def token_over(line: Line, token: str) -> str:
    """The API token with the line's address instead of the server's, which goes by what it is called."""
    content = json.loads(base64.b64decode(token))
    return base64.b64encode(json.dumps({**content, "api_address": line.url, "api_url": line.url}).encode()).decode()


def measure(command: list[str], server: ServerProcess, line: Line) -> Measured:
    env = environment(server, {"NEPTUNE_API_TOKEN": token_over(line, server.environment["NEPTUNE_API_TOKEN"])})
    server_process = psutil.Process(server.pid)
    server.instruments.reset_counts()
    before, server_before = line.carried(), processor_seconds(server_process)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        used = run(command, env, Path(folder))
    return Measured(
        used,
        line.carried().since(before),
        Counter(server.instruments.counts()["requests"]),
        processor_seconds(server_process) - server_before,
    )


def measure_fresh(options: argparse.Namespace, shape: Shape) -> Measured:
    """One measurement on a server that has just been filled, and a check of what became of it."""
    command = [sys.executable, str(options.script), "--project", PROJECT, "--workers", str(options.workers)]
    with ServerProcess("--project", PROJECT) as server:
        shape.fill(Filler(server), options.objects, int(options.megabytes * MEGABYTE))
        address = urlsplit(server.url)
        with Line(address.hostname or "", address.port or 0, options.line) as line:
            measured = measure(command, server, line)
            if options.again:
                measured = measure(command, server, line)
        found = differences(server.instruments.state(PROJECT))
    if found:
        raise SystemExit("\n".join(["The copies are not exact:", *found[:20]]))
    return measured


def seconds_to_import(script: Path) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, str(script), "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


# -- showing it --


def show(measured: list[Measured], options: argparse.Namespace, shape: Shape) -> None:
    one = sorted(measured, key=lambda each: each.used.seconds)[(len(measured) - 1) // 2]
    print(f"\n{options.shape}{' again' if options.again else ''}: {options.objects} objects, {options.workers} workers")
    import_seconds = seconds_to_import(options.script)
    rows = [
        ("seconds", f"{one.used.seconds:.1f}", "" if len(measured) == 1 else all_seconds(measured)),
        *limits(one, options.line, shape),
        ("start", f"{one.used.start_seconds:.1f}", f"imports {import_seconds:.1f}, then sign-in and tables"),
        *costs(one, options),
    ]
    for name, value, remark in rows:
        print(f"  {name:<14}{value:>11}  {remark}".rstrip())
    print("\n  requests an object")
    for operation, number in one.requests.most_common():
        print(f"  {operation:<45}{number:>7,}{number / options.objects:>8.2f}")


def limits(one: Measured, speed: Speed, shape: Shape) -> list[tuple[str, str, str]]:
    """The seconds below which no program could carry these bytes."""
    seconds, (down, up) = one.used.seconds, speed.seconds(one.carried.down, one.carried.up)
    limit, name = (down + up, "down, then up") if shape.is_one_file else (max(down, up), "the slower direction")
    slower = f"{seconds / max(down, up):.2f} x that of the slower direction" if shape.is_one_file else ""
    return [("line's limit", f"{limit:.1f}", name), ("of the limit", f"{seconds / limit:.2f} x", slower)]


def costs(one: Measured, options: argparse.Namespace) -> list[tuple[str, str, str]]:
    used, carried, objects = one.used, one.carried, options.objects
    count, pages = sum(one.requests.values()), math.ceil(objects / TABLE_PAGE)
    searches = f"; tables: {one.requests[SEARCH] / pages:.1f} for each {TABLE_PAGE} objects"
    beside = f"server {one.server_processor_seconds:.1f} s, line {carried.processor_seconds:.1f} s"
    return [
        ("bytes", f"{carried.down / MEGABYTE:.1f} MB", f"down, and {carried.up / MEGABYTE:.1f} MB up"),
        ("connections", f"{carried.connections}", ""),
        ("requests", f"{count:,}", f"{count / objects:.2f} an object{searches if options.again else ''}"),
        ("peak memory", f"{used.memory / MEGABYTE:.0f} MB", ""),
        ("threads", f"{used.threads}", ""),
        ("processor", f"{used.processor_seconds:.1f} s", f"{1000 * used.processor_seconds / objects:.0f} ms an object"),
        ("beside it", "", beside),
    ]


def all_seconds(measured: list[Measured]) -> str:
    seconds = [each.used.seconds for each in measured]
    return f"median of {', '.join(f'{each:.1f}' for each in seconds)} (mean {statistics.mean(seconds):.1f})"


# -- the command line --


def line_speed(text: str) -> Speed:
    down, up, round_trip = (float(number) for number in text.split("/"))
    return Speed(down, up, round_trip)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="registry")
    parser.add_argument("--objects", type=int, help="models and versions (86; 1,000 of --shape many)")
    parser.add_argument("--megabytes", type=float, help="of files and images in all (510; 500 of --shape one)")
    parser.add_argument("--workers", type=int, help="(20; 16 with --shape many)")
    parser.add_argument(
        "--line", type=line_speed, default="340/110/28", metavar="DOWN/UP/RTT", help="Mbit/s, Mbit/s, ms (%(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="show the median of N runs (%(default)s)")
    parser.add_argument("--again", action="store_true", help="run twice, and show the second, with nothing changed")
    parser.add_argument("--script", type=Path, default=SCRIPT, help="another version of the script")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    for name in ("objects", "megabytes", "workers"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(shape, name))
    options.script = options.script.resolve()
    return options


def main() -> None:
    options = parse()
    shape = SHAPES[options.shape]
    measured = [measure_fresh(options, shape) for _ in range(options.repeat)]
    show(measured, options, shape)


if __name__ == "__main__":
    main()
