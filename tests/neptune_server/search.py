"""Tables: which containers match a query, in which order, one page at a time; and which columns there are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from . import nql
from .attributes import Attribute, Json
from .store import MODEL, MODEL_VERSION, PROJECT, RUN, Container, InvalidError, Project, Store

WINDOW = 10_000
DEFAULT_LIMIT = 100
SORTABLE = {
    "artifact": {"artifact"},
    "bool": {"bool"},
    "datetime": {"datetime"},
    "experimentState": {"experimentState"},
    # Of a column that holds both kinds of numbers the client says that it is one of floats.
    "float": {"float", "int"},
    "floatSeries": {"floatSeries"},
    "int": {"int"},
    "string": {"string"},
    "stringSeries": {"stringSeries"},
}


@dataclass(frozen=True)
class TableHabits:
    """What tables of a compatible server may do differently."""

    ignore_queries: bool = False
    attributes_by_path: bool = False


def search_entries(
    store: Store, project: Project, body: Json, types: Sequence[str] | None, habits: TableHabits | None = None
) -> Json:
    """Raises NqlSyntaxError for a bad query and InvalidError for anything else that cannot be answered."""
    habits = habits or TableHabits()
    text = "" if habits.ignore_queries else (body.get("query") or {}).get("query") or ""
    query = nql.parse(text, store.now())
    offset, limit = _page(body.get("pagination") or {})
    candidates = _of_types(store, project, types)
    found = [container for container in candidates if nql.matches(query, container.attribute)]
    if body.get("sorting"):
        found = _sorted(found, body["sorting"])
    columns = _columns(body.get("attributeFilters"))
    return {
        "matchingItemCount": len(found),
        "entries": [_entry(container, columns, habits) for container in found[offset : offset + limit]],
    }


def search_attributes(
    store: Store,
    project: Project,
    search: str | None,
    types: Sequence[str] | None,
    attribute_types: Sequence[str] | None = None,
    limit: int | None = None,
) -> Json:
    """Names and types of fields; `search` is a regular expression that a part of the name has to match."""
    try:
        pattern = re.compile(search or "")
    except re.error as error:
        raise InvalidError(f"'{search}' is not a regular expression") from error
    if limit is not None and limit < 0:
        raise InvalidError("The limit cannot be negative")
    known = {
        (path, attribute.type)
        for container in _of_types(store, project, types)
        for path, attribute in container.attributes.items()
    }
    entries = [
        {"name": path, "type": type_name}
        for path, type_name in sorted(known)
        if pattern.search(path) and (not attribute_types or type_name in attribute_types)
    ]
    return {"entries": entries[:limit]}


def _of_types(store: Store, project: Project, types: Sequence[str] | None) -> Iterable[Container]:
    wanted = set(types or (RUN,))
    if not wanted <= {RUN, MODEL, MODEL_VERSION, PROJECT}:
        raise InvalidError(f"Not all of these are types of objects: {', '.join(sorted(wanted))}")
    return (container for container in store.index.containers(project) if container.kind in wanted)


def _page(pagination: Json) -> tuple[int, int]:
    offset = pagination.get("offset") or 0
    limit = DEFAULT_LIMIT if pagination.get("limit") is None else pagination["limit"]
    if offset < 0 or limit < 0:
        raise InvalidError("Neither offset nor limit can be negative")
    if offset + limit > WINDOW:
        raise InvalidError(f"A search reaches no further than {WINDOW} entries")
    return offset, limit


def _sorted(containers: list[Container], sorting: Json) -> list[Container]:
    """Those that have nothing to sort by come last, whatever the direction."""
    field = sorting["sortBy"]
    if field["type"] not in SORTABLE:
        raise InvalidError(f"Fields of type {field['type']} have no order")
    types = SORTABLE[field["type"]]
    mode = field.get("aggregationMode")
    aggregate = mode if mode in nql.AGGREGATES else "last"
    with_key, without = [], []
    for container in containers:
        key = _sort_key(container.attribute(field["name"]), types, aggregate)
        if key is None:
            without.append(container)
        else:
            with_key.append((key, container))
    with_key.sort(key=lambda pair: pair[0], reverse=sorting.get("dir") == "descending")
    return [container for _, container in with_key] + without


def _sort_key(attribute: Attribute | None, types: set[str], aggregate: str) -> Any:
    if attribute is None or attribute.type not in types:
        return None
    value = nql.comparable(attribute, aggregate)
    return None if isinstance(value, float) and math.isnan(value) else value


def _columns(filters: list[Json] | None) -> list[str] | None:
    return None if filters is None else list(dict.fromkeys(each["path"] for each in filters))


def _entry(container: Container, columns: list[str] | None, habits: TableHabits) -> Json:
    project = container.project
    listed = container.listed()
    paths = listed if columns is None else [path for path in columns if path in listed]
    attributes = {path: listed[path].dto(path) for path in paths}
    return {
        "experimentId": container.id,
        "organizationId": project.workspace.id,
        "organizationName": project.workspace.name,
        "projectId": project.id,
        "projectName": project.name,
        "type": container.kind,
        "attributes": attributes if habits.attributes_by_path else list(attributes.values()),
    }
