"""Fills model registries through the client, as people do, and through the server itself where the client cannot.

Each `fill_...` works in a temporary folder, which is the working directory for the time being.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import io
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import neptune
from neptune import management
from neptune.types import File, FileSet, FloatSeries, StringSeries
from PIL import Image, ImageDraw

from tests.neptune_server.process import ServerProcess

Attribute = dict[str, Any]

PART = 5 << 20
"""The most bytes that the client uploads in one piece."""
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
REPEATED_HOUR = 1729987200000
"""Milliseconds of 2024-10-27T00:00Z: clocks in Warsaw show the hour that follows, and the one after it, alike."""


@dataclass(frozen=True)
class Registry:
    """The registry of one project, open for filling."""

    server: ServerProcess
    project: str
    folder: Path
    """For local files. It lies beside the working directory: below it, the client would prefix their names."""

    def model(self, key: str, name: str | None = None) -> Any:
        return neptune.init_model(key=key, name=name, **self._connection())

    def version(self, model: Any, name: str | None = None) -> Any:
        return neptune.init_model_version(model=id_of(model), name=name, **self._connection())

    def _connection(self) -> dict[str, Any]:
        return {"project": self.project, "api_token": self._token, "mode": "sync"}

    @property
    def _token(self) -> str:
        return self.server.environment["NEPTUNE_API_TOKEN"]

    def plant(self, container: Any, attributes: Mapping[str, Attribute | None]) -> None:
        """Places fields as only the server can; None takes one away."""
        for path, attribute in attributes.items():
            self.server.instruments.set_attribute(self.project, id_of(container), path, attribute)

    def trash(self, container: Any) -> None:
        management.trash_objects(self.project, id_of(container), api_token=self._token)

    def file(self, name: str, content: bytes = b"") -> str:
        """The path of a new local file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    def file_set(self, name: str, files: Mapping[str, bytes]) -> FileSet:
        """A file set with the very names given: of a folder, the client keeps the names below it as they are."""
        for path, content in files.items():
            self.file(f"{name}/{path}", content)
        return FileSet(glob.escape(str(self.folder / name)))


@contextlib.contextmanager
def filling(server: ServerProcess, project: str) -> Iterator[Registry]:
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    before = Path.cwd()
    workplace = Path(tempfile.mkdtemp(prefix="registry-"))
    queue, files = workplace / "queue", workplace / "files"
    queue.mkdir()
    files.mkdir()
    os.chdir(queue)
    try:
        yield Registry(server, project, files)
    finally:
        os.chdir(before)
        shutil.rmtree(workplace, ignore_errors=True)


def id_of(container: Any) -> str:
    found: str = container["sys/id"].fetch()
    return found


def seconds(milliseconds: int) -> float:
    """For the client, which cuts off what lies below a millisecond, and so would cut one off an inexact number."""
    return (milliseconds + 0.5) / 1000


def moment(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, "little") if size else b""


# -- fields as the server holds them --


def atom(type_name: str, value: Any) -> Attribute:
    return {"type": type_name, "value": value}


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def planted_file(content: bytes, extension: str) -> Attribute:
    return {"type": "file", "content": encoded(content), "ext": extension, "name": "file"}


def planted_file_set(files: Mapping[str, bytes]) -> Attribute:
    return {"type": "fileSet", "files": {name: encoded(content) for name, content in files.items()}}


def planted_image(content: bytes, name: str | None = None, description: str | None = None) -> dict[str, Any]:
    return {"content": encoded(content), "name": name, "description": description}


def picture(number: int, form: str = "PNG") -> bytes:
    """A small image, another one for each number."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 37 % 256, number * 91 % 256, number * 151 % 256)).save(stream, form)
    return stream.getvalue()


# -- the hard registry --

TEXTS = {
    "empty": "",
    "blank": " \t ",
    "longest": "longest " * 2048,
    "longest beyond the basic plane": "😀𝔘𠜎🏳️‍🌈" * 1170,
    "lines": "\none\ntwo\r\nthree\rfour\n\n",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028\u2029\ufeff\ufffe\uffff",
    "right to left": "\u202e\u0645\u0631\u062d\u0628\u0627\u202c שלום",
    "composed": "\u00e9\u1e9b\u0323",
    "decomposed": "e\u0301\u017f\u0323\u0307",
    "escapes": r"\u0041 \n %s %(x)s {0} $HOME &amp; %2F",
    "quotes": "'single' \"double\" `back` =1+1,;",
    "words": "None",
}
FLOATS = {
    "largest": 1.7976931348623157e308,
    "lowest": -1.7976931348623157e308,
    "smallest": 5e-324,
    "smallest normal": 2.2250738585072014e-308,
    "negative zero": -0.0,
    "zero": 0.0,
    "tenth": 0.1,
    "third": 1 / 3,
    "seventeen digits": 0.30000000000000004,
    "whole": 3.0,
    "beyond exact integers": 9007199254740994.0,
}
INTS = {"largest": 2**31 - 1, "lowest": -(2**31), "zero": 0, "minus one": -1}
MOMENTS = {
    "first hour": REPEATED_HOUR + 1_800_123,
    "repeated hour": REPEATED_HOUR + 5_400_123,
    "epoch": 0,
    "before the epoch": -1,
    "long before the epoch": -1_230_768_000_001,
    "last millisecond of a second": 1_700_000_000_999,
    "off by one in floats": 1_700_000_000_001,
    "off by one in floats, too": 1_111_111_111_009,
    "leap day": 1_709_164_800_001,
    "far future": 253_402_300_799_999,
    "far past": -30_610_224_000_000,
}


def fill_hard(server: ServerProcess, project: str) -> None:
    """Every type of field with values that are easily damaged; some twenty objects, some twenty megabytes."""
    with filling(server, project) as registry:
        _fill_values(registry)
        _fill_numbers_over_time(registry)
        _fill_texts_over_time(registry)
        _fill_images(registry)
        _fill_files(registry)
        _fill_file_sets(registry)
        _fill_artifacts(registry)
        _fill_paths(registry)
        _fill_system_fields(registry)
        _fill_unreadable(registry)
        _fill_trash(registry)


def _fill_values(registry: Registry) -> None:
    with registry.model("VALUES", "Wärter 😀") as model:
        model["texts"] = TEXTS
        model["floats"] = FLOATS
        model["ints"] = INTS
        model["bools"] = {"yes": True, "no": False}
        model["moments/by the client"] = moment(REPEATED_HOUR + 5_400_500)
        registry.plant(model, {f"moments/{name}": atom("datetime", value) for name, value in MOMENTS.items()})


def _fill_numbers_over_time(registry: Registry) -> None:
    count = 1234
    hard = list(FLOATS.values())
    with registry.model("METRICS") as model:
        model["through the repeated hour"] = FloatSeries(
            [index / 7 for index in range(count)],
            steps=list(range(count)),
            timestamps=[seconds(REPEATED_HOUR + 6_001 * index) for index in range(count)],
            min=-0.5,
            max=200,
            unit="°C/m²",
        )
        model["hard values"].extend(hard, timestamps=[seconds(999 + 1000 * index) for index in range(len(hard))])
        model["fractional steps"].extend([1.0, 2.0, 3.0, 4.0], steps=[-10.75, -0.1, 0.1, 1e-9 + 0.1])
        model["distant steps"].extend([1.0, 2.0, 3.0], steps=[-1e15, 0, 9007199254740992.0])
        model["back in time"].extend([1, 2, 3], timestamps=[seconds(each) for each in (1_700_000_000_001, 5, 1)])
        model["one point"].append(-0.0, step=7.5)
        model["just a unit"] = FloatSeries([1.0], unit="%")
        model["just a range"] = FloatSeries([1.0], min=-1e-300, max=0)
        model["emptied"].append(1.0)
        model["emptied"].clear()


def _fill_texts_over_time(registry: Registry) -> None:
    texts = [text[:1000] for text in TEXTS.values()]
    with registry.model("LOGS") as model:
        model["texts"].extend(
            texts,
            steps=[index / 3 - 2 for index in range(len(texts))],
            timestamps=[seconds(REPEATED_HOUR + 3_599_999 + index) for index in range(len(texts))],
        )
        model["empty text"] = StringSeries([""])
        model["many"].extend([f"line {index}" for index in range(120)])
        model["emptied"].append("a")
        model["emptied"].clear()


def _fill_images(registry: Registry) -> None:
    with registry.model("IMAGES") as model:
        for index, form in enumerate(["PNG", "JPEG", "GIF", "WEBP", *["PNG"] * 8]):
            image = File(registry.file(f"{index}.{form.lower()}", picture(index, form)))
            time = seconds(REPEATED_HOUR + 3_600_001 * index)
            model["described"].append(
                image, step=index / 4 - 1, timestamp=time, name=f"№ {index}", description="a\nb 😀"
            )
        model["plain"].append(File.from_content(picture(20), extension="png"))
        model["empty words"].append(File.from_content(picture(21), extension="png"), name="", description="")
        points = [
            [0.0, REPEATED_HOUR, planted_image(picture(22))],
            [1.0, REPEATED_HOUR, planted_image(b"", "no bytes")],
        ]
        registry.plant(model, {"without bytes": {"type": "imageSeries", "points": points}})


def _fill_files(registry: Registry) -> None:
    with registry.model("FILES") as model:
        for name in ("LICENSE", "model.tar.gz", ".hidden", ".hidden.yaml", "A.PNG", "blank in.na me"):
            model[f"named/{name}"].upload(registry.file(name, name.encode()))
        model["empty"].upload(registry.file("empty.bin"))
        model["empty without extension"].upload(registry.file("empty"))
        model["extension given"].upload(File.from_path(registry.file("weights", b"w"), extension="tar.gz"))
        model["from memory"].upload(File.from_content("{}", extension="json"))
        model["one piece"].upload(registry.file("one.bin", noise(PART)))
        model["two parts"].upload(registry.file("two.bin", noise(PART + 1, seed=1)))
        planted = {"extension of letters": planted_file(b"x", "ünï 😀"), "extension of dots": planted_file(b"", "..")}
        registry.plant(model, planted)


ORDINARY_NAMES = {
    "a/b/c/d.txt": b"deep",
    "a/b.txt": b"b",
    "a.b/c..d": b"dots",
    "no extension": b"",
    "blank in/na  me": b"blanks",
    "[a]/[!b].txt": b"a pattern to glob",
    ".hidden/.file": b"hidden",
    ".gitignore": b"",
    "files.zip": b"PK not a zip",
    "ünï.txt": b"composed or not, as the file system has it",
}
AWKWARD_NAMES = {
    "[a]*?.txt": b"stars",
    "**/*": b"everything",
    "caf\u00e9": b"composed",
    "cafe\u0301": b"decomposed",
    "back\\slash": b"\\",
    "C:\\x:y": b"drive",
    "CON": b"device",
    "ends with a dot.": b".",
    " blanks at both ends / ": b" ",
    "...": b"dots",
    "-rf": b"dash",
    "~": b"home",
    "%2e%2E/%41": b"escapes",
    "'single' \"double\"": b"quotes",
    "line\nbreak": b"newline",
    "😀/𠜎": b"astral",
    "n" * 200: b"long",
    "/".join("deep" for _ in range(40)): b"deep",
    "Case": b"upper",
    "case": b"lower",
}


def _fill_file_sets(registry: Registry) -> None:
    many = {f"{index % 7}/{index}.txt": str(index).encode() for index in range(620)}
    with registry.model("SETS") as model, registry.version(model) as version:
        model["ordinary names"] = registry.file_set("ordinary", ORDINARY_NAMES)
        model["one nested file"] = registry.file_set("one", {"a/b/c.txt": b"alone"})
        model["one hidden file"] = registry.file_set("one-hidden", {".a/.b": b""})
        model["nothing"] = FileSet([])
        version["many"] = registry.file_set("many", many)
        version["large"] = registry.file_set(
            "large", {"a/large.bin": noise(PART + 1, seed=2), "a/small": b"1", "b": b""}
        )
        version["one large"] = registry.file_set("one-large", {"x/y": noise(PART + 2, seed=3)})
        planted = {
            "awkward names": planted_file_set(AWKWARD_NAMES),
            "one awkward name": planted_file_set({"[x] ü/*": b"alone"}),
        }
        registry.plant(version, planted)


def _fill_artifacts(registry: Registry) -> None:
    """The tracked files are gone when this is over."""
    with registry.model("DATA") as model, registry.version(model) as version:
        for name, content in {"train.csv": b"1,2", "sub/test.csv": b"3", "empty.csv": b""}.items():
            registry.file(f"data/{name}", content)
        model["folder"].track_files(str(registry.folder / "data"))
        model["file"].track_files(str(registry.folder / "data/train.csv"))
        model["renamed"].track_files(str(registry.folder / "data"), destination="elsewhere/")
        version["by hash"] = model["folder"].fetch()
        version["twice"].track_files(str(registry.folder / "data/train.csv"))
        version["twice"].track_files(str(registry.folder / "data/sub"))


def _fill_paths(registry: Registry) -> None:
    names = (
        "dots/../up",
        "./here",
        "C:/drive",
        "back\\slash",
        "CON",
        "nul/aux.txt",
        " blank / both ends ",
        "query?a=b&c#d+e;f",
        "escaped%2Fslash%20",
        "brace{0}{path}",
        "'quote'/\"double\"",
        "[glob]/*",
        "ünï/ü/😀",
        "n" * 200,
        "/".join("deep" for _ in range(30)),
        "system/not sys",
        "sys_/neither",
        "monitoring/cpu",
        "line\nbreak",
    )
    with registry.model("PATHS") as model, registry.version(model) as version:
        for name in names:
            model[name] = name
            version[f"{name}/file"].upload(File.from_content(name, extension="txt"))
            version[f"{name}/series"].append(1.5, step=2.5)
            version[f"{name}/logs"].append(name, step=-1)
        for name in names[:8]:
            version[f"{name}/images"].append(File.from_content(picture(30), extension="png"))
            version[f"{name}/set"] = registry.file_set("paths", {"a b.txt": b"a"})


def _fill_system_fields(registry: Registry) -> None:
    with registry.model("SYS", "name\n'of' \"it\"") as model:
        model["sys/description"] = TEXTS["right to left"]
        model["sys/tags"].add(["model", "a,b", "with blank", "ünï 😀", "'\"`"])
        model["sys/group_tags"].add(["mine", "a/b"])
        model["source_code/entrypoint"] = "train.py"
        for stage in ("none", "staging", "production", "archived"):
            with registry.version(model, f"in {stage}") as version:
                if stage != "none":
                    version.change_stage(stage)
                version["sys/tags"].add([stage, "model"])
                version["stage"] = stage
        with registry.version(model) as version:
            version["sys/description"] = ""
            registry.plant(version, {"sys/registered_by": atom("string", "robot"), "sys/priority": atom("int", 3)})
    with registry.model("BARE") as model:
        registry.plant(model, {"sys/name": None, "sys/description": None})


UNREADABLE: dict[str, Attribute] = {
    "source_code/git": {
        "type": "gitRef",
        "commit": {
            "commitId": "0123456789abcdef0123456789abcdef01234567",
            "message": "Train longer",
            "authorName": "Ada",
            "authorEmail": "ada@example.com",
            "commitDate": "2024-10-27T00:30:00.000Z",
        },
        "currentBranch": "main",
        "remotes": ["https://example.com/models.git"],
        "repositoryDirty": False,
    },
    "notebooks/training": {
        "type": "notebookRef",
        "notebookId": "11111111-2222-3333-4444-555555555555",
        "notebookName": "training.ipynb",
        "notebookDeleted": False,
    },
    "shape": {"type": "complex"},
    "later/histogram": {"type": "histogramSeries", "last": [1, 2, 3]},
}
"""What the client has no way to read, in the version of the model READ."""


def _fill_unreadable(registry: Registry) -> None:
    with registry.model("READ") as model, registry.version(model) as version:
        version["readable"] = 1
        registry.plant(version, UNREADABLE)


def _fill_trash(registry: Registry) -> None:
    with registry.model("GONE") as model, registry.version(model) as version:
        model["a"] = version["a"] = 1
        registry.trash(model)
    with registry.model("HALF") as half, registry.version(half) as kept, registry.version(half) as gone:
        kept["a"] = gone["a"] = 1
        registry.trash(gone)


def fill_unreadable(server: ServerProcess, project: str) -> None:
    """A model and its version, which holds what cannot be read."""
    with filling(server, project) as registry:
        _fill_unreadable(registry)


TOO_LARGE: dict[str, Attribute] = {
    "long text": atom("string", "x" * 20_000),
    "long point": {"type": "stringSeries", "points": [[0.0, REPEATED_HOUR, "y" * 3_000]]},
    "labels": atom("stringSet", ["a", "b"]),
}
"""What a server may hold, from other days perhaps, though it takes it from nobody today."""


def fill_too_large(server: ServerProcess, project: str) -> dict[str, str]:
    """Versions with one field each that cannot be written again, among others that can. Returns ID → that field."""
    made = {}
    with filling(server, project) as registry, registry.model("LARGE") as model:
        for path, attribute in TOO_LARGE.items():
            with registry.version(model) as version:
                version["before"] = 1
                version["zoo"].upload(registry.file("zoo.txt", b"animals"))
                registry.plant(version, {path: attribute})
                made[id_of(version)] = path
    return made


# -- the small registry --


def fill_small(server: ServerProcess, project: str, models: int = 3, versions: int = 4) -> list[str]:
    """Models with versions, each of a few values and a short series. Returns their IDs."""
    made = []
    with filling(server, project) as registry:
        for number in range(1, models + 1):
            with registry.model(f"M{number}", f"Model {number}") as model:
                made.append(_fill_briefly(model, number))
                for own_number in range(1, versions + 1):
                    with registry.version(model) as version:
                        made.append(_fill_briefly(version, number * 1000 + own_number))
    return made


def _fill_briefly(container: Any, number: int) -> str:
    container["params"] = {"depth": number, "rate": number / 7, "solver": f"solver {number}", "shuffled": True}
    container["val/loss"].extend(
        [1 / (number + step) for step in range(20)],
        steps=[step / 2 for step in range(20)],
        timestamps=[seconds(REPEATED_HOUR + 1001 * step) for step in range(20)],
    )
    return id_of(container)


# -- the registry of the demo --


@dataclass(frozen=True)
class DemoModel:
    key: str
    name: str
    description: str
    params: dict[str, Any]
    stages: tuple[str, ...]
    """One for each version."""


DEMO_MODELS = (
    DemoModel(
        "FOREST",
        "Random forest",
        "The workhorse since the spring of 2024.",
        {"n_estimators": 400, "max_depth": 12, "criterion": "entropy"},
        ("archived", "production", "staging"),
    ),
    DemoModel(
        "BOOST",
        "Gradient boosting",
        "A challenger: better by two points of AUC, and harder to explain.",
        {"n_estimators": 900, "learning_rate": 0.03, "subsample": 0.8},
        ("none", "staging"),
    ),
    DemoModel(
        "LOGREG",
        "Logistic regression",
        "The baseline that everything is held against.",
        {"C": 0.5, "penalty": "l2", "class_weight": "balanced"},
        ("archived", "none"),
    ),
)
DEMO_EPOCHS = 120


def fill_demo(server: ServerProcess, project: str) -> None:
    """A registry as somebody might have it who lends money."""
    with filling(server, project) as registry:
        for number, described in enumerate(DEMO_MODELS):
            with registry.model(described.key, described.name) as model:
                _fill_demo_model(registry, model, described)
                for version_number, stage in enumerate(described.stages, 1):
                    with registry.version(model, f"{described.name} {version_number}") as version:
                        _fill_demo_version(registry, version, described, seed=10 * number + version_number)
                        if stage != "none":
                            version.change_stage(stage)


def _fill_demo_model(registry: Registry, model: Any, described: DemoModel) -> None:
    for name, size in {"train": 40_000, "test": 10_000}.items():
        registry.file(f"dataset/{name}.csv", noise(size, seed=size))
    model["sys/description"] = described.description
    model["sys/tags"].add(["credit-risk"])
    model["dataset"].track_files(str(registry.folder / "dataset"))
    model["signature"].upload(File.from_content('{"inputs": ["income", "age", "debt"]}', extension="json"))


def _fill_demo_version(registry: Registry, version: Any, described: DemoModel, seed: int) -> None:
    chance = random.Random(seed)
    trained_at = 1_728_000_000_000 + 864_000_000 * seed
    times = [seconds(trained_at + 1_517 * epoch) for epoch in range(DEMO_EPOCHS)]
    auc = [0.86 - 0.3 / (epoch + 1) + chance.uniform(0, 0.01) for epoch in range(DEMO_EPOCHS)]
    version["params"] = {**described.params, "random_state": seed}
    version["trained_at"] = moment(trained_at)
    version["train/loss"].extend([0.7 * 0.98**epoch + chance.uniform(0, 0.02) for epoch in range(DEMO_EPOCHS)])
    version["val/auc"] = FloatSeries(auc, timestamps=times, steps=list(range(DEMO_EPOCHS)), min=0.5, max=1)
    version["val/best_auc"] = max(auc)
    version["train/log"].extend([f"epoch {epoch}: AUC {auc[epoch]:.4f}" for epoch in range(0, DEMO_EPOCHS, 10)])
    for epoch in (10, 60, 119):
        image = File.from_content(roc_curve(auc[epoch]), extension="png")
        version["val/roc"].append(image, step=epoch, timestamp=times[epoch], name=f"ROC, epoch {epoch}")
    version["weights"].upload(registry.file("weights.joblib", noise(chance.randrange(200_000, 2_000_000), seed)))
    features = {"numeric/income.json": b"{}", "numeric/debt.json": b"{}", "README": b"How the features were made"}
    version["features"] = registry.file_set("features", features)


def roc_curve(auc: float, size: int = 240, margin: int = 20) -> bytes:
    """A plot, as PNG, of the power function that has this area below it."""
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    span = size - 2 * margin
    curve = [
        (margin + span * step / 100, size - margin - span * (step / 100) ** ((1 - auc) / auc)) for step in range(101)
    ]
    draw.rectangle((margin, margin, size - margin, size - margin), outline="black")
    draw.line((margin, size - margin, size - margin, margin), fill="gray")
    draw.line(curve, fill="blue", width=2)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
