"""Runs, models and model versions: creating, finding, trashing; and the writes to their fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .attributes import Attribute, Bool, Datetime, Float, Int, Json, Reference, String, StringSet
from .operations import RefusedError, execute, read_operations
from .search import search_attributes, search_entries
from .store import MODEL, MODEL_VERSION, PROJECT, RUN, Container, InvalidError, NotFoundError, Project
from .web import ApiError, Call, handles

MAX_CUSTOM_ID_LENGTH = 36


def experiment(container: Container) -> Json:
    project = container.project
    return {
        "id": container.id,
        "shortId": container.sys_id,
        "type": container.kind,
        "parentId": container.parent_id,
        "projectId": project.id,
        "projectName": project.name,
        "organizationId": project.workspace.id,
        "organizationName": project.workspace.name,
        "trashed": container.trashed,
    }


@handles("getExperiment")
def get_experiment(call: Call) -> Json:
    try:
        return experiment(call.container())
    except NotFoundError as error:
        raise ApiError(404, str(error), "EXPERIMENT_NOT_FOUND") from None


@handles("createExperiment")
def create_experiment(call: Call) -> Json:
    identifier = _text(call, "projectIdentifier") or _text(call, "projectId")
    if not identifier:
        raise ApiError(400, "No project is named")
    project = call.store.project(identifier)
    project.check_writable()
    kind = _text(call, "type") or RUN
    if kind == RUN:
        return experiment(_create_run(call, project))
    if kind == MODEL:
        return experiment(call.store.create_model(project, _text(call, "key")))
    if kind == MODEL_VERSION:
        return experiment(_create_version(call, project))
    raise ApiError(400, f"Objects of type '{kind}' are not created this way")


def _text(call: Call, name: str) -> str:
    text = call.body.get(name) or ""
    if not isinstance(text, str):
        raise ApiError(400, f"{name} is no string")
    return text


def _create_run(call: Call, project: Project) -> Container:
    custom_id = _text(call, "customId") or None
    if custom_id is not None and len(custom_id) > MAX_CUSTOM_ID_LENGTH:
        raise ApiError(400, f"A custom id has at most {MAX_CUSTOM_ID_LENGTH} characters")
    known = custom_id is not None and custom_id in project.by_custom_id
    run = call.store.create_run(project, custom_id)
    git_info = call.body.get("gitInfo")
    if git_info is not None and not known:
        run.put("source_code/git", Reference("gitRef", git_info))
        run.touch()
    return run


def _create_version(call: Call, project: Project) -> Container:
    model = call.store.container(_text(call, "parentId"))
    if model.kind != MODEL or model.project is not project:
        raise NotFoundError(f"'{model.sys_id}' is no model of the project")
    return call.store.create_model_version(project, model)


@handles("createEmptyCheckpoint")
def create_empty_checkpoint(call: Call) -> Json:
    raise NotFoundError(f"There is no notebook '{call.params['notebookId']}'")


@handles("ping")
def ping(call: Call) -> None:
    call.container_to_write().ping()


# -- reading all fields --


@handles("getExperimentAttributes")
def get_experiment_attributes(call: Call) -> Json:
    container = call.container()
    project = container.project
    listed = container.listed()
    return {
        "id": container.id,
        "projectId": project.id,
        "projectName": project.name,
        "organizationId": project.workspace.id,
        "organizationName": project.workspace.name,
        "trashed": container.trashed,
        "attributes": [attribute.dto(path) for path, attribute in listed.items()],
        "systemAttributes": _system_attributes(container, listed),
    }


SYSTEM_ATTRIBUTES: dict[str, tuple[str, Attribute]] = {
    "creationTime": ("sys/creation_time", Datetime(0)),
    "description": ("sys/description", String("")),
    "failed": ("sys/failed", Bool(False)),
    "modificationTime": ("sys/modification_time", Datetime(0)),
    "monitoringTime": ("sys/monitoring_time", Int(0)),
    "name": ("sys/name", String("")),
    "pingTime": ("sys/ping_time", Datetime(0)),
    "runningTime": ("sys/running_time", Float(0.0)),
    "shortId": ("sys/id", String("")),
    "size": ("sys/size", Float(0.0)),
    "tags": ("sys/tags", StringSet()),
    "trashed": ("sys/trashed", Bool(False)),
}


def _system_attributes(container: Container, listed: dict[str, Attribute]) -> Json:
    """The fields that every object is said to have, with a neutral value where this one lacks it."""
    found = {name: listed.get(path, neutral).properties(path) for name, (path, neutral) in SYSTEM_ATTRIBUTES.items()}
    found["state"] = container.state().properties("sys/state")
    for name, path in (("owner", "sys/owner"), ("hostname", "sys/hostname"), ("gitRef", "source_code/git")):
        if path in listed:
            found[name] = listed[path].properties(path)
    return found


@handles("searchLeaderboardEntries")
def search_leaderboard_entries(call: Call) -> Json:
    habits = call.server.options.tables
    return search_entries(call.store, call.project(), call.body, call.params["type"], habits)


@handles("searchLeaderboardAttributes")
def search_leaderboard_attributes(call: Call) -> Json:
    return search_attributes(
        call.store,
        call.project(),
        search=call.params["search"],
        types=call.params["type"],
        attribute_types=call.params["attributeType"],
        limit=call.params["limit"],
    )


# -- writing fields --


MOST_OPERATIONS = 1000
"""In a request: the client sends no more, so it is not known whether a server takes them."""


@handles("executeOperations")
def execute_operations(call: Call) -> list[Json]:
    container = call.container_to_write()
    operations = read_operations(call.body)
    if len(operations) > MOST_OPERATIONS:
        raise InvalidError(f"{len(operations)} operations are more than {MOST_OPERATIONS}")
    errors: list[RefusedError] = []
    if call.refusal is not None:
        refused = [each for each in operations if call.refused_path in (None, each[0])][-1:]
        errors += [RefusedError(call.refusal) for _ in refused]
        operations = [each for each in operations if each not in refused]
    errors += execute(container, operations)
    return [error.as_json() for error in errors]


# -- trash --

Mover = Callable[[Container], "tuple[str, str] | None"]


def _bulk(call: Call, identifiers: Iterable[str], move: Mover) -> Json:
    """Moves each object on its own; `move` tells the reason and the words where one cannot be moved."""
    project = call.project_to_write()
    moved: list[str] = []
    errors: list[Json] = []
    for identifier in identifiers:
        container = _member(call, project, identifier)
        failure = ("NOT_EXISTS", "There is no such object") if container is None else move(container)
        if failure is None:
            moved.append(identifier)
        else:
            reason, message = failure
            errors.append({"experimentIdentifier": identifier, "message": message, "reason": reason})
    return {"errors": errors, "updatedExperimentIdentifiers": moved}


def _member(call: Call, project: Project, identifier: str) -> Container | None:
    found = project.by_sys_id.get(identifier)
    if found is None:
        try:
            found = call.store.container(identifier)
        except NotFoundError:
            return None
    return found if found.project is project else None


def _in_trash(call: Call) -> list[str]:
    return [container.id for container in call.project().containers.values() if container.trashed]


@handles("trashExperiments")
def trash_experiments(call: Call) -> Json:
    def move(container: Container) -> tuple[str, str] | None:
        if container.kind == PROJECT:
            return "IS_PROJECT", "A project is not moved to the trash"
        if container.trashed:
            return "ALREADY_TRASHED", "The object is in the trash already"
        call.store.trash(container, True)
        return None

    return _bulk(call, call.body or [], move)


def _restore(call: Call, identifiers: Iterable[str]) -> Json:
    def move(container: Container) -> tuple[str, str] | None:
        if not container.trashed:
            return "NOT_IN_TRASH", "The object is not in the trash"
        call.store.trash(container, False)
        return None

    return _bulk(call, identifiers, move)


def _delete(call: Call, identifiers: Iterable[str]) -> Json:
    def move(container: Container) -> tuple[str, str] | None:
        if not container.trashed:
            return "NOT_IN_TRASH", "Only objects in the trash can be deleted"
        call.store.delete(container)
        return None

    return _bulk(call, identifiers, move)


@handles("restoreExperiments")
def restore_experiments(call: Call) -> Json:
    return _restore(call, call.body or [])


@handles("restoreAllExperiments")
def restore_all_experiments(call: Call) -> Json:
    return _restore(call, _in_trash(call))


@handles("deleteExperiments")
def delete_experiments(call: Call) -> Json:
    return _delete(call, call.body or [])


@handles("deleteAllExperiments")
def delete_all_experiments(call: Call) -> Json:
    return _delete(call, _in_trash(call))
