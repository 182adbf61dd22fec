"""What the pages of a whole project show: its runs by group tag, and its models with their versions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .attributes import Attribute, Datetime, Float, FloatSeries, StringSet, date_time
from .store import MODEL, MODEL_VERSION, RUN, Container, Project

IN_COLUMNS = ("int", "float", "bool", "string", "datetime", "floatSeries")
"""The types of fields of which a column can show a value; of a series it is the last."""


@dataclass(frozen=True)
class RunRow:
    run: Container
    group_tags: list[str]
    custom_id: str
    name: str
    tags: list[str]
    stage: str
    metrics: list[str]


@dataclass(frozen=True)
class Group:
    tag: str
    rows: list[RunRow]


@dataclass(frozen=True)
class RunsTable:
    groups: list[Group]
    """A run stands in the group of each of its group tags; the runs without any come last."""
    count: int
    all_count: int
    trashed_count: int
    tags: list[str]
    columns: list[str]
    """The paths to choose from."""


@dataclass(frozen=True)
class ModelRow:
    model: Container
    versions: list[Container]


def natural(text: str) -> list[str | int]:
    """Sorts FOREST-2 before FOREST-10."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"([0-9]+)", text))]


def runs_table(project: Project, tag: str, metrics: Sequence[str]) -> RunsTable:
    everything = [each for each in project.containers.values() if each.kind == RUN]
    runs = [run for run in everything if not run.trashed]
    shown = [_row(run, metrics) for run in runs if not tag or tag in strings_of(run, "sys/tags")]
    return RunsTable(
        groups=_groups(shown),
        count=len(shown),
        all_count=len(runs),
        trashed_count=len(everything) - len(runs),
        tags=sorted({each for run in runs for each in strings_of(run, "sys/tags")}),
        columns=_columns(runs),
    )


def _row(run: Container, metrics: Sequence[str]) -> RunRow:
    return RunRow(
        run=run,
        group_tags=strings_of(run, "sys/group_tags"),
        custom_id=text_of(run, "sys/custom_run_id"),
        name=text_of(run, "sys/name"),
        tags=strings_of(run, "sys/tags"),
        stage=text_of(run, "old_sys/stage"),
        metrics=[text_of(run, path) for path in metrics],
    )


def _groups(rows: Iterable[RunRow]) -> list[Group]:
    by_tag: defaultdict[str, list[RunRow]] = defaultdict(list)
    for row in rows:
        for tag in row.group_tags or [""]:
            by_tag[tag].append(row)
    in_order = sorted(by_tag, key=lambda tag: (not tag, natural(tag)))
    return [Group(tag, sorted(by_tag[tag], key=_place)) for tag in in_order]


def _place(row: RunRow) -> list[str | int]:
    return natural(row.custom_id or row.run.sys_id)


def _columns(runs: Iterable[Container]) -> list[str]:
    return sorted(
        {path for run in runs for path, attribute in run.attributes.items() if attribute.type in IN_COLUMNS},
        key=lambda path: (path.startswith(("sys/", "old_sys/")), natural(path)),
    )


def models_table(project: Project) -> list[ModelRow]:
    living = [each for each in project.containers.values() if not each.trashed]
    by_model: defaultdict[str, list[Container]] = defaultdict(list)
    for each in living:
        if each.kind == MODEL_VERSION:
            by_model[each.parent_id].append(each)
    models = sorted((each for each in living if each.kind == MODEL), key=_by_id)
    return [ModelRow(model, sorted(by_model[model.id], key=_by_id)) for model in models]


def _by_id(container: Container) -> list[str | int]:
    return natural(container.sys_id)


# -- whose copy a run is --


def source_of(run: Container) -> Container | None:
    """The model or version that a run names, be it by the ID that it keeps of it or by its custom run ID."""
    for path in ("old_sys/id", "sys/custom_run_id"):
        found = run.project.by_sys_id.get(text_of(run, path))
        if found is not None and found.kind in (MODEL, MODEL_VERSION):
            return found
    return None


def copies(project: Project) -> dict[Container, list[Container]]:
    """The runs of each model and version."""
    found: defaultdict[Container, list[Container]] = defaultdict(list)
    for run in project.containers.values():
        source = source_of(run) if run.kind == RUN and not run.trashed else None
        if source is not None:
            found[source].append(run)
    return found


# -- values in a cell --


def strings_of(container: Container, path: str) -> list[str]:
    attribute = container.attribute(path)
    return sorted(attribute.values) if isinstance(attribute, StringSet) else []


def text_of(container: Container, path: str) -> str:
    attribute = container.attribute(path)
    return "" if attribute is None or attribute.type not in IN_COLUMNS else _in_short(attribute)


def _in_short(attribute: Attribute) -> str:
    if isinstance(attribute, Datetime):
        return date_time(attribute.value)
    value = attribute.last if isinstance(attribute, FloatSeries) else getattr(attribute, "value", None)
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(attribute, (Float, FloatSeries)) else str(value)
