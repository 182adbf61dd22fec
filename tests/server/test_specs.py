"""The server's own descriptions: sound in themselves, and fit for the client as it is."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import neptune
import pytest
import yaml
from bravado.client import SwaggerClient, construct_request
from neptune.internal.backends import hosted_client, hosted_file_operations, operation_api_name_visitor
from neptune.internal.backends.swagger_client_wrapper import SwaggerClientWrapper
from neptune.internal.backends.utils import build_operation_url, uuid_format

FOLDER = Path(__file__).parents[1] / "neptune_server" / "specs"
NAMES = ("artifacts", "backend", "leaderboard")
HOST = "http://127.0.0.1:8080"

# Members, invitations and service accounts: the client can ask for them, this server does not have them.
NOT_SERVED = {
    "addProjectMember",
    "addProjectServiceAccount",
    "createOrganizationInvitations",
    "deleteProjectMember",
    "deleteProjectServiceAccount",
    "listOrganizationMembers",
    "listProjectMembers",
    "listProjectServiceAccounts",
    "listServiceAccounts",
}


def document(name: str) -> dict[str, Any]:
    """As a client gets it: through JSON."""
    loaded = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return json.loads(json.dumps(loaded))


def client_of(name: str, validated: bool = False) -> SwaggerClientWrapper:
    config = {
        "validate_swagger_spec": validated,
        "validate_requests": False,
        "validate_responses": False,
        "formats": [uuid_format],
    }
    origin = f"{HOST}/api/{name}/swagger.json"
    return SwaggerClientWrapper(SwaggerClient.from_spec(document(name), origin_url=origin, config=config))


def operations(name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document(name)["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def values_of(key: str, value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for each_key, each in value.items():
            if each_key == key:
                yield each
            else:
                yield from values_of(key, each)
    elif isinstance(value, list):
        for each in value:
            yield from values_of(key, each)


def request_for(operation: Any, **parameters: Any) -> dict[str, Any]:
    options = hosted_client.DEFAULT_REQUEST_KWARGS["_request_options"]
    return construct_request(operation, options, **parameters)


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_one_of_the_loaded_client(name: str) -> None:
    client = client_of(name, validated=True)
    for path, method, operation in operations(name):
        loaded = getattr(client.api, operation["operationId"]).operation
        assert (loaded.path_name, loaded.http_method) == (path, method)


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for name in NAMES for _, _, operation in operations(name)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", NAMES)
def test_references_lead_to_definitions_and_none_is_left_over(name: str) -> None:
    content = document(name)
    referred = set(values_of("$ref", content))
    assert referred == {f"#/definitions/{definition}" for definition in content["definitions"]}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_required_is_described(name: str) -> None:
    for definition in document(name)["definitions"].values():
        assert set(definition.get("required", ())) <= set(definition.get("properties", ()))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_a_path_stand_in_it(name: str) -> None:
    for path, _, operation in operations(name):
        in_path = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))


@pytest.mark.parametrize("name", NAMES)
def test_paths_are_complete_so_that_raw_requests_find_them(name: str) -> None:
    assert not {"host", "basePath", "schemes"} & set(document(name))
    base = client_of(name).swagger_spec.api_url
    for path, _, _ in operations(name):
        assert build_operation_url(base, path) == f"{HOST}{path}"


def names_in_the_client() -> set[str]:
    root = Path(neptune.__file__).parent
    sources = [path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in ("legacy", "vendor")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    named = set(re.findall(r"client\.api\.(\w+)", text))
    return named.union(*hosted_file_operations.MULTIPART_URLS.values())


def test_every_operation_that_the_client_names_is_described() -> None:
    described = {operation["operationId"] for name in NAMES for _, _, operation in operations(name)}
    named = names_in_the_client()
    assert {"searchLeaderboardEntries", "fileSetFileMultipartUploadPart", "exchangeApiToken"} <= named
    assert named - described == NOT_SERVED


def test_every_write_that_the_client_sends_is_described() -> None:
    sent = set(re.findall(r'return "(\w+)"', inspect.getsource(operation_api_name_visitor)))
    assert "logFloats" in sent
    assert sent <= set(document("leaderboard")["definitions"]["Operation"]["properties"])


def test_a_run_with_git_information_can_be_asked_for() -> None:
    commit = {
        "commitId": "f00",
        "message": "first",
        "authorName": "A",
        "authorEmail": "a@example.org",
        "commitDate": datetime(2024, 5, 6, 7, 8, 9, tzinfo=timezone.utc),
    }
    parameters = {
        "projectIdentifier": "id",
        "type": "run",
        "cliVersion": "1.14.0",
        "customId": None,
        "gitInfo": {"commit": commit, "repositoryDirty": False, "currentBranch": "main", "remotes": []},
    }
    request = request_for(
        client_of("leaderboard").api.createExperiment,
        **{"experimentCreationParams": parameters, "X-Neptune-CliVersion": "1.14.0"},
    )
    sent = json.loads(request["data"])
    assert sent["gitInfo"]["commit"]["commitDate"] == "2024-05-06T07:08:09+00:00"
    assert sent["cliVersion"] == "1.14.0"
    assert request["headers"]["X-Neptune-CliVersion"] == "1.14.0"


def test_a_search_keeps_its_query_and_repeats_the_type() -> None:
    body = {
        "query": {"query": "(`sys/trashed`:bool = false)"},
        "sorting": {"dir": "ascending", "aggregationMode": "none", "sortBy": {"name": "sys/id", "type": "string"}},
        "attributeFilters": [{"path": "sys/id"}],
        "pagination": {"limit": 0, "offset": 0},
    }
    search = client_of("leaderboard").api.searchLeaderboardEntries
    request = request_for(search, projectIdentifier="id", type=["run", "model"], params=body)
    assert json.loads(request["data"]) == body
    assert request["params"]["type"] == ["run", "model"]
