"""Signing in, workspaces and projects."""

from __future__ import annotations

import re
from typing import Any

from .attributes import Json, date_time
from .store import InvalidError, Project, Workspace
from .uploads import MAX_CHUNK_COUNT, MAX_CHUNK_SIZE, MAX_SINGLE_PART_SIZE, MIN_CHUNK_SIZE
from .web import ApiError, Call, handles

API_VERSION = 2
STORAGE_LIMIT = 1 << 40


@handles("getClientConfig")
def get_client_config(call: Call) -> Json:
    url = call.base_url
    return {
        "apiUrl": url,
        "applicationUrl": url,
        "artifacts": {"enabled": True, "apiVersion": API_VERSION},
        "gzipUpload": False,
        "multiPartUpload": {
            "enabled": True,
            "minChunkSize": MIN_CHUNK_SIZE,
            "maxChunkSize": MAX_CHUNK_SIZE,
            "maxChunkCount": MAX_CHUNK_COUNT,
            "maxSinglePartSize": MAX_SINGLE_PART_SIZE,
        },
        "pyLibVersions": {},
        "sysNameSetByBackend": not call.server.options.client_names,
    }


@handles("exchangeApiToken")
def exchange_api_token(call: Call) -> Json:
    authority = call.server.authority
    authority.check_api_token(call.params["X-Neptune-Api-Token"])
    tokens = authority.tokens(call.base_url)
    return {
        "accessToken": tokens["access_token"],
        "refreshToken": tokens["refresh_token"],
        "username": authority.username,
    }


@handles("listOrganizations")
def list_organizations(call: Call) -> list[Json]:
    return [_organization_with_role(workspace) for workspace in call.store.workspaces.values()]


def _organization_with_role(workspace: Workspace) -> Json:
    common: Json = {
        "id": workspace.id,
        "name": workspace.name,
        "created": date_time(workspace.created),
        "paymentStatus": "ok",
        "avatarUrl": "",
        "avatarSource": "default",
        "organizationType": "team",
        "limitsEnforced": False,
        "pricingPlan": "enterprise",
    }
    organization = {
        **common,
        "pricingPlanDefinition": {"plan": "enterprise", "displayName": "Enterprise"},
        "supportsMonitoringHoursLimits": False,
        "traits": {},
        "userflowIdentityHash": "",
    }
    return {**common, "organization": organization, "userRole": "owner"}


@handles("workspaceStatus")
def workspace_status(call: Call) -> Json:
    workspace = call.store.workspace(call.params["organizationIdentifier"])
    projects = [project for project in call.store.projects.values() if project.workspace is workspace]
    return {
        "mode": "normal",
        "storageBytesLimit": STORAGE_LIMIT,
        "storageBytesAvailable": STORAGE_LIMIT - sum(_stored_bytes(project) for project in projects),
        "activeProjectsUsage": len(projects),
        "membersCount": 1,
        "membersCountWithInvitations": 1,
    }


@handles("storageUsage")
def storage_usage(call: Call) -> Json:
    project, workspace = call.params["projectIdentifier"], call.params["organizationIdentifier"]
    if project is not None:
        return {"usage": _stored_bytes(call.store.project(project))}
    chosen = None if workspace is None else call.store.workspace(workspace)
    projects = [each for each in call.store.projects.values() if chosen is None or each.workspace is chosen]
    return {"usage": sum(_stored_bytes(each) for each in projects)}


def _stored_bytes(project: Project) -> int:
    return sum(container.size for container in project.containers.values())


@handles("getProject")
def get_project(call: Call) -> Json:
    project = call.project()
    project.last_viewed = call.store.now()
    return _project(project)


@handles("listProjects")
def list_projects(call: Call) -> Json:
    workspace, term = call.params["organizationIdentifier"], call.params["searchTerm"]
    projects = list(call.store.projects.values())
    if workspace is not None:
        chosen = call.store.workspace(workspace)
        projects = [project for project in projects if project.workspace is chosen]
    matching = [project for project in projects if not term or term.lower() in project.name.lower()]
    offset, limit = call.params["offset"] or 0, call.params["limit"]
    page = _sorted(matching, call)[offset:][:limit][: call.server.options.projects_per_page]
    return {
        "entries": [_project_with_role(project) for project in page],
        "matchingItemCount": len(matching),
        "totalItemCount": len(projects),
    }


def _sorted(projects: list[Project], call: Call) -> list[Project]:
    keys = call.params["sortBy"] or []
    directions = call.params["sortDirection"] or []
    for position, key in reversed(list(enumerate(keys))):
        descending = position < len(directions) and directions[position] == "descending"
        if key == "lastViewed":
            projects = sorted(projects, key=lambda project: project.last_viewed, reverse=descending)
        elif key == "name":
            projects = sorted(projects, key=lambda project: project.name.lower(), reverse=descending)
        else:
            raise ApiError(400, f"Projects cannot be sorted by '{key}'")
    return projects


@handles("createProject")
def create_project(call: Call) -> Json:
    wanted: dict[str, Any] = call.body
    try:
        workspace = call.store.workspace(wanted["organizationId"])
        # Only here: older servers have let people call their projects otherwise, and tests plant such ones.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", wanted["name"]):
            raise InvalidError(f"'{wanted['name']}' cannot be the name of a project", "PROJECT_NAME_INVALID")
        project = call.store.create_project(
            workspace,
            wanted["name"],
            key=wanted.get("projectKey"),
            visibility=wanted.get("visibility") or "priv",
            description=wanted.get("description"),
        )
    except KeyError as error:
        raise ApiError(400, f"{error.args[0]} is missing") from None
    except InvalidError as error:
        raise _refusal(error, wanted) from None
    return _project_with_role(project)


def _refusal(error: InvalidError, wanted: Json) -> ApiError:
    """Only of a name that exists already does the client read the list of errors; the rest has types of its own."""
    if error.code != "ERR_NOT_UNIQUE":
        return ApiError(
            400, str(error), error.code, name=wanted["name"], key=wanted.get("projectKey"), reason=str(error)
        )
    failure = {"errorCode": {"name": error.code}, "context": str(error)}
    return ApiError(400, str(error), validationErrors=[{"path": [], "errors": [failure]}])


@handles("deleteProject")
def delete_project(call: Call) -> None:
    call.store.delete_project(call.project())


def _project(project: Project) -> Json:
    return {
        "id": project.id,
        "name": project.name,
        "projectKey": project.key,
        "organizationId": project.workspace.id,
        "organizationName": project.workspace.name,
        "version": API_VERSION,
    }


def _project_with_role(project: Project) -> Json:
    return {
        **_project(project),
        "visibility": project.visibility,
        "description": project.description or "",
        "timeOfCreation": date_time(project.created),
        "lastActivity": date_time(max(each.modified for each in project.containers.values())),
        "organizationType": "team",
        "userCount": 1,
        "featured": False,
        "codeAccess": "default",
        "userRoleInOrganization": "owner",
        "userRoleInProject": project.role,
        "avatarUrl": "",
        "avatarSource": "default",
        "archived": project.archived,
    }
