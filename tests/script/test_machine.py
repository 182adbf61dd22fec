"""People work on a registry while it is migrated time and again: after each run of the script, every copy is exact."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.neptune_server.process import ServerProcess
from tests.support.planted import Planted, points, value
from tests.support.registry import picture, planted_file, planted_file_set, planted_image
from tests.tools.torture import DATASET, DATASET_FILE, Play, delete_project, new_project, problems

PATHS = ("a", "b/c", "b/d e", "source_code/entrypoint", "monitoring/cpu")
STEPS = st.lists(st.floats(-1e6, 1e6, width=32), max_size=6, unique=True).map(sorted)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
NAMES = st.sampled_from(["a.txt", "a/b.txt", "a/.c", "[d]", "e"])


def series(type_name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Points with a step, a time that has nothing to do with it, and a value."""

    def numbered(steps: list[float]) -> st.SearchStrategy[list[list[Any]]]:
        return st.tuples(*(st.tuples(st.just(step), st.integers(0, 2**41), values).map(list) for step in steps)).map(
            list
        )

    return STEPS.flatmap(numbered).map(lambda entries: points(type_name, entries))


IMAGES = st.integers(0, 9).map(lambda number: planted_image(picture(number), f"№ {number}", "words"))
FIELDS = st.one_of(
    st.integers(-(2**31), 2**31 - 1).map(lambda number: value("int", number)),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: value("float", number)),
    st.booleans().map(lambda truth: value("bool", truth)),
    TEXTS.map(lambda text: value("string", text)),
    st.integers(-(10**12), 10**13).map(lambda moment: value("datetime", moment)),
    st.just({"type": "artifact", "hash": DATASET}),
    series("floatSeries", st.floats(allow_nan=False, allow_infinity=False)),
    series("stringSeries", TEXTS),
    series("imageSeries", IMAGES),
    st.builds(planted_file, st.binary(max_size=40), st.sampled_from(["", "txt", "tar.gz"])),
    st.dictionaries(NAMES, st.binary(max_size=40), max_size=3).map(planted_file_set),
)
STRINGS = st.sets(st.sampled_from(["model", "mine", "a b", "ü"]), max_size=3).map(sorted)
STAGES = st.sampled_from(["none", "staging", "production", "archived"])


class Registry(RuleBasedStateMachine):
    """A registry, the people who change it, and the script."""

    server: ServerProcess

    def __init__(self) -> None:
        super().__init__()
        self.planted = Planted(self.server, new_project(self.server))
        self.server.instruments.add_artifact(self.planted.project, DATASET, [DATASET_FILE])
        self.place = Path(tempfile.mkdtemp(prefix="machine-"))
        self.models: list[str] = []
        self.versions: list[str] = []
        self.add_model()

    @rule()
    def add_model(self) -> None:
        self.models.append(self.planted.model(key=f"M{len(self.models)}"))

    @rule(data=st.data(), field=FIELDS)
    def add_version(self, data: st.DataObject, field: dict[str, Any]) -> None:
        model = data.draw(st.sampled_from(self.models))
        self.versions.append(self.planted.version(model, {"a": field}))

    @rule(data=st.data(), fields=st.dictionaries(st.sampled_from(PATHS), FIELDS | st.none(), min_size=1))
    def add_change_and_remove(self, data: st.DataObject, fields: dict[str, Any]) -> None:
        self.place_in(self.any_source(data), fields)

    @rule(data=st.data(), text=TEXTS, tags=STRINGS, group_tags=STRINGS)
    def describe(self, data: st.DataObject, text: str, tags: list[str], group_tags: list[str]) -> None:
        fields = {"sys/name": value("string", text), "sys/description": value("string", text)}
        sets = {"sys/tags": value("stringSet", tags), "sys/group_tags": value("stringSet", group_tags)}
        self.place_in(self.any_source(data), {**fields, **sets})

    @rule(data=st.data(), stage=STAGES)
    def change_stage(self, data: st.DataObject, stage: str) -> None:
        if self.versions:
            self.place_in(data.draw(st.sampled_from(self.versions)), {"sys/stage": value("string", stage)})

    @rule()
    def migrate(self) -> None:
        before = self.planted.state()
        ended = Play(self.planted, self.place).end()
        assert ended.status == 0, ended.output
        assert problems(self.planted, before) == []

    def any_source(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([*self.models, *self.versions]))

    def place_in(self, source: str, fields: dict[str, Any]) -> None:
        for path, field in fields.items():
            self.server.instruments.set_attribute(self.planted.project, source, path, field)
        # Set by the system and not by people, some fields do not move the time by themselves.
        self.planted.put(source, {"touched": value("bool", True)})

    def teardown(self) -> None:
        self.migrate()
        ended = Play(self.planted, self.place).end()
        assert " 0 to copy" in ended.output
        shutil.rmtree(self.place, ignore_errors=True)
        delete_project(self.server, self.planted.project)


def test_every_copy_is_exact_whatever_people_do_between_the_runs(server: ServerProcess) -> None:
    Registry.server = server
    run_state_machine_as_test(
        Registry,
        settings=settings(
            max_examples=6,
            stateful_step_count=10,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
