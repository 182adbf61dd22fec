"""A small registry with a field of every type, copied, for the pages to show."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.neptune_server.process import ServerProcess
from tests.support.planted import Planted, points, value
from tests.support.registry import encoded, picture, planted_file, planted_file_set, planted_image
from tests.support.script import Completed, run_script

Attribute = dict[str, Any]

MOMENT = 1_700_000_000_001
MANY_POINTS = 200_000
LOSS = [[float(step), MOMENT + step, 1 / (step + 1)] for step in range(30)]
IMAGES: list[list[Any]] = [
    [step / 2, MOMENT + step, planted_image(picture(step), f"image {step}")] for step in range(3)
]
FIELDS: dict[str, Attribute] = {
    "params/depth": value("int", 12),
    "params/rate": value("float", 0.1),
    "params/shuffled": value("bool", True),
    "params/solver": value("string", "lbfgs"),
    "params/trained at": value("datetime", MOMENT),
    "params/notes": value("string", "A long story. " * 40),
    "val/loss": {**points("floatSeries", LOSS), "config": {"min": 0.0, "max": None, "unit": "nats"}},
    "val/log": points("stringSeries", [[0.0, MOMENT, "first"], [1.5, MOMENT + 1, "second"]]),
    "val/roc": points("imageSeries", IMAGES),
    "weights": planted_file(b"weights", "tar.gz"),
    "features": planted_file_set({"a/b c.json": b"{}", "README": b"read me"}),
    "data": {"type": "artifact", "hash": "f" * 64},
}
SYSTEM_FIELDS: dict[str, Attribute] = {
    "sys/stage": value("string", "staging"),
    "sys/tags": value("stringSet", ["best"]),
}
COPY_FIELDS = {**FIELDS, "sys/tags": value("stringSet", ["best", "model_version"])}
TRACKED = [{"filePath": "train.csv", "fileHash": "0" * 40, "size": 7, "type": "Local", "metadata": []}]


class Gallery(Planted):
    """The project, and where its pages are."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        name = f"acme/g-{uuid.uuid4().hex[:12]}"
        server.instruments.create_project(name)
        super().__init__(server, name)
        server.instruments.add_artifact(name, "f" * 64, TRACKED)
        self.model_id = self.model({"sys/name": value("string", "Forest"), "sys/tags": value("stringSet", ["credit"])})
        self.version_id = self.version(self.model_id, {**FIELDS, **SYSTEM_FIELDS})
        self.session: Completed = run_script(server, "--project", name, "--workers", "2", cwd=folder)
        self.run_ids = {row["source ID"]: row["run ID"] for row in self.session.report}

    @property
    def url(self) -> str:
        return f"{self.server.url}/{self.project}/"

    @property
    def copy_url(self) -> str:
        """The run of the version."""
        return f"{self.url}e/{self.run_ids[self.version_id]}"

    @contextmanager
    def altered(self, changes: Mapping[str, Attribute | None]) -> Iterator[None]:
        """The version's run with other fields for the time being; None is for a field that it does not have."""
        self._put_in_copy(changes)
        try:
            yield
        finally:
            self._put_in_copy({path: COPY_FIELDS.get(path) for path in changes})

    def _put_in_copy(self, fields: Mapping[str, Attribute | None]) -> None:
        for path, attribute in fields.items():
            self.server.instruments.set_attribute(self.project, self.run_ids[self.version_id], path, attribute)


def with_point(number: int, point: list[Any]) -> Attribute:
    """The loss with one other point."""
    return {**FIELDS["val/loss"], "points": [*LOSS[:number], point, *LOSS[number + 1 :]]}


def with_image(number: int, **changes: str) -> Attribute:
    step, moment, image = IMAGES[number]
    other = [step, moment, {**image, **changes}]
    return points("imageSeries", [*IMAGES[:number], other, *IMAGES[number + 1 :]])


ALTERATIONS: dict[str, tuple[str, Attribute | None]] = {
    "another number": ("params/depth", value("int", 13)),
    "another type": ("params/depth", value("float", 12.0)),
    "the last bit": ("params/rate", value("float", 0.10000000000000002)),
    "a blank": ("params/solver", value("string", "lbfgs ")),
    "a millisecond": ("params/trained at", value("datetime", MOMENT + 1)),
    "a missing field": ("params/shuffled", None),
    "a field too many": ("params/more", value("int", 1)),
    "a string of a set": ("sys/tags", value("stringSet", ["Best", "model_version"])),
    "a point's value": ("val/loss", with_point(17, [17.0, MOMENT + 17, 1 / 18.1])),
    "a point's time": ("val/loss", with_point(0, [0.0, MOMENT + 1, 1.0])),
    "a unit": ("val/loss", {**points("floatSeries", LOSS), "config": {"min": 0.0, "max": None, "unit": "bits"}}),
    "a line of a log": ("val/log", points("stringSeries", [[0.0, MOMENT, "first"], [1.5, MOMENT + 1, "Second"]])),
    "an image's pixels": ("val/roc", with_image(1, content=encoded(picture(9)))),
    "an image's name": ("val/roc", with_image(2, name="image two")),
    "a byte": ("weights", planted_file(b"weightz", "tar.gz")),
    "an extension": ("weights", planted_file(b"weights", "tgz")),
    "a file's name": ("features", planted_file_set({"a/b  c.json": b"{}", "README": b"read me"})),
    "a hash": ("data", {"type": "artifact", "hash": "e" * 64}),
}
"""What is altered in the copy → the field, and what it is then."""
