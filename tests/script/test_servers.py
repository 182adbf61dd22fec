"""Servers, accounts and networks as people have them: certificates, roles, limits, lost bytes, servers without NQL."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme

import model_to_run as script
from tests.neptune_server.process import ServerProcess
from tests.support.planted import Planted, value
from tests.support.script import Completed, run_script
from tests.tools.torture import Play, asked, bare_registry, complete, new_project, planted_file, problems, sources

NOT_VERIFIED = "The certificate of 127.0.0.1 does not verify: set REQUESTS_CA_BUNDLE"


@pytest.fixture(scope="module")
def secure() -> Iterator[ServerProcess]:
    with ServerProcess("--tls") as process:
        yield process


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The certificates of an authority that has not signed the server's."""
    file = tmp_path / "company.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    return file


@pytest.fixture
def planted(server: ServerProcess) -> Iterator[Planted]:
    with bare_registry(server) as registry:
        registry.model({"depth": value("int", 1), "weights": planted_file(b"weights", "bin")})
        yield registry


def run_on(planted: Planted, folder: Path, *flags: str, **env: str | None) -> Completed:
    return Play(planted, folder, *flags, env=env).end()


# -- certificates --


def secure_registry(secure: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> Planted:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(secure.certificate))
    registry = Planted(secure, new_project(secure))
    registry.model({"depth": value("int", 1), "weights": planted_file(os.urandom(7 << 20), "bin")})
    return registry


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_neptunes_variable_wins_over_those_of_requests(
    secure: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path, variable: str
) -> None:
    registry = secure_registry(secure, monkeypatch)
    env = {"REQUESTS_CA_BUNDLE": None, variable: str(bundle), "NEPTUNE_ALLOW_SELF_SIGNED_CERTIFICATE": "TRUE"}
    ended = run_on(registry, tmp_path, **env)
    assert (ended.status, problems(registry)) == (0, []), ended.output


def test_a_bundle_with_the_servers_authority_is_enough(
    secure: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = secure_registry(secure, monkeypatch)
    ended = run_on(registry, tmp_path)
    assert (ended.status, problems(registry)) == (0, []), ended.output


def test_a_certificate_that_does_not_verify_is_told_at_once(
    secure: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    registry = secure_registry(secure, monkeypatch)
    ended = run_on(registry, tmp_path, REQUESTS_CA_BUNDLE=str(bundle))
    assert (ended.status, NOT_VERIFIED in ended.output) == (2, True)
    assert "Waiting" not in ended.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate", script.Refused),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] Hostname mismatch, certificate is not valid for 'a.b'", script.Refused),
        ("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol", script.Away),
        ("[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed or bad record mac", script.Away),
    ],
)
def test_only_a_certificate_that_does_not_verify_is_not_waited_for(text: str, expected: type[Exception]) -> None:
    with pytest.raises(expected), script.network_errors("downloadAttribute"):
        raise requests.exceptions.SSLError(text)


# -- roles, archived projects, limits --


@pytest.mark.parametrize(
    ("project", "sentence"),
    [
        ({"role": "viewer"}, "You may only look at {}: a copy needs the role of a contributor."),
        ({"archived": True}, "{} is archived: unarchive it in the app"),
    ],
)
def test_where_nothing_can_be_written_it_is_told_before_anything_is(
    planted: Planted, tmp_path: Path, project: dict[str, object], sentence: str
) -> None:
    planted.server.instruments.set_project(planted.project, **project)  # type: ignore[arg-type]
    before = planted.state()
    ended = run_on(planted, tmp_path)
    assert (ended.status, sentence.format(planted.project) in ended.output) == (2, True), ended.output
    assert run_on(planted, tmp_path, "--dry-run").status == 0
    assert planted.state() == before
    planted.server.instruments.set_project(planted.project)
    assert complete(planted, tmp_path) == []


def test_of_several_projects_only_that_one_drops_out(server: ServerProcess, tmp_path: Path) -> None:
    workspace = new_project(server).replace("/", "-")
    viewed, own = (Planted(server, f"{workspace}/{name}") for name in ("viewed", "own"))
    for each in (viewed, own):
        server.instruments.create_project(each.project)
        each.model({"depth": value("int", 1)})
    server.instruments.set_project(viewed.project, role="viewer")
    ended = run_script(server, "--project", f"{workspace}/*", cwd=tmp_path)
    assert (ended.status, problems(own), viewed.runs()) == (1, [], {})
    assert f"You may only look at {viewed.project}" in ended.output


def test_a_dry_run_on_a_server_that_ignores_queries_takes_no_other_run_for_the_copy(
    without_queries: ServerProcess, tmp_path: Path
) -> None:
    planted = Planted(without_queries, new_project(without_queries))
    planted.model({"depth": value("int", 1)})
    planted.run({"mine": value("int", 1)})
    assert run_on(planted, tmp_path, "--dry-run").status == 0


@pytest.mark.parametrize("part", ["entries", "entries.organizationName", "entries.name", "entries.id"])
def test_a_list_of_projects_that_lacks_a_part_is_told_in_words(planted: Planted, tmp_path: Path, part: str) -> None:
    planted.server.instruments.leave_out("listProjects", part)
    ended = run_on(planted, tmp_path)
    assert (ended.status, len(ended.output.splitlines())) == (2, 1), ended.output
    assert f"lacks '{part.rpartition('.')[2]}'" in ended.output


@pytest.mark.parametrize("how", ["by name", "by commas"])
def test_one_that_is_named_and_archived_drops_out_as_well(server: ServerProcess, tmp_path: Path, how: str) -> None:
    archived, own = Planted(server, new_project(server)), Planted(server, new_project(server))
    for each in (archived, own):
        each.model({"depth": value("int", 1)})
    server.instruments.set_project(archived.project, archived=True)
    names = [archived.project, own.project]
    flags = ["--project", ",".join(names)] if how == "by commas" else names
    ended = run_script(server, *flags, "--workers", "2", cwd=tmp_path)
    assert (ended.status, problems(own), archived.runs()) == (1, [], {}), ended.output
    assert f"{archived.project} is archived" in ended.output


def test_a_bad_query_is_told_beside_a_project_that_is_archived(server: ServerProcess, tmp_path: Path) -> None:
    archived, own = Planted(server, new_project(server)), Planted(server, new_project(server))
    server.instruments.set_project(archived.project, archived=True)
    ended = run_script(server, archived.project, own.project, "--workers", "2", "--query", "((nonsense", cwd=tmp_path)
    assert ended.status == 2
    assert "model_to_run: The server does not understand --query" in ended.output


def test_more_projects_than_a_page_of_the_servers_list_are_found(tmp_path: Path) -> None:
    with ServerProcess("--projects-per-page", "2") as server:
        for number in range(4):
            server.instruments.create_project(f"crowd/project-{number:03}")
        ended = run_script(server, "--project", "crowd/*", "--dry-run", "--workers", "2", cwd=tmp_path)
    assert (ended.status, "crowd/project-000" in ended.output, "crowd/project-003" in ended.output) == (0, True, True)


@pytest.mark.parametrize("status", [402, 422])
@pytest.mark.parametrize("limit", [{"bytes": 0}, {"operations": 0}], ids=["bytes", "operations"])
def test_a_limit_that_meets_all_objects_is_one_line(
    planted: Planted, tmp_path: Path, status: int, limit: dict[str, int]
) -> None:
    for key in ("AAA", "BBB", "CCC", "DDD"):
        planted.model({f"weights/{key}": planted_file(b"weights", "bin")}, key=key)
    planted.server.instruments.limit(status=status, **limit)
    ended = run_on(planted, tmp_path)
    told = [line for line in ended.output.splitlines() if str(status) in line]
    assert (ended.status, len(told)) == (1, 1), ended.output
    assert re.match(r"  5 objects +", told[0])
    assert sum(source_id in told[0] for source_id in sources(planted)) == 3
    assert {row["status"] for row in ended.report} == {"failed"}
    assert all(str(status) in row["error"] for row in ended.report)
    planted.server.instruments.limit()
    assert complete(planted, tmp_path) == []


def test_a_token_that_is_rejected_for_good_is_tried_shortly_by_the_others(planted: Planted, tmp_path: Path) -> None:
    for number in range(7):
        planted.model({"depth": value("int", number)}, key=f"M{number}")
    planted.server.instruments.fault("createExperiment", "status", status=401, times=None)
    ended = run_on(planted, tmp_path, "--workers", "1")
    assert (ended.status, {row["status"] for row in ended.report}) == (1, {"failed"}), ended.output
    assert sum(float(row["seconds"]) for row in ended.report) < 2 + 7 * 1
    planted.server.instruments.clear_faults()
    assert complete(planted, tmp_path) == []


def test_one_value_that_is_refused_does_not_send_the_others_one_by_one(planted: Planted, tmp_path: Path) -> None:
    model = planted.model({f"v/{number}": value("int", number) for number in range(300)}, key="WIDE")
    instruments = planted.server.instruments
    instruments.fault("executeOperations", "operation_error", path="v/123", body="not today", times=None)
    instruments.reset_counts()
    ended = run_on(planted, tmp_path, "--only", model)
    assert (ended.status, "v/123: it is not in the run; not today" in ended.row(model)["error"]) == (1, True)
    assert asked(instruments, "executeOperations") < 30
    instruments.clear_faults()
    assert complete(planted, tmp_path) == []


def test_a_tag_of_a_model_that_looks_like_a_claim_is_listed(planted: Planted, tmp_path: Path) -> None:
    (model,) = sources(planted)
    planted.put(model, {"sys/tags": value("stringSet", ["good", "incomplete copy 0badc0de"])})
    ended = run_on(planted, tmp_path)
    told = "skipped: sys/tags: 'incomplete copy 0badc0de' (reserved for incomplete copies)"
    assert (ended.status, ended.row(model)["error"]) == (0, told)
    assert planted.runs()[model]["sys/tags"]["value"] == ["good", "model"]
    assert run_on(planted, tmp_path).row(model)["status"] == "up to date"


# -- lost bytes --


def test_a_file_whose_bytes_are_lost_can_be_left_out(planted: Planted, tmp_path: Path) -> None:
    (model,) = sources(planted)
    planted.server.instruments.lose_bytes(planted.project, model, "weights")
    ended = run_on(planted, tmp_path)
    assert (ended.status, "weights: downloading: the server refused it (404" in ended.output) == (1, True)
    assert "\nTo leave out a field that always fails: --exclude and its path in the registry.\n" in ended.output
    ended = run_on(planted, tmp_path, "--exclude", "weights")
    assert (ended.status, ended.row(model)["status"]) == (0, "copied")
    assert "left out: weights" in ended.row(model)["error"]
    assert run_on(planted, tmp_path).row(model)["status"] == "up to date"


# -- signing in --


@pytest.mark.parametrize("operation", ["swagger", "getClientConfig"])
def test_waiting_while_it_signs_in_is_told_once(planted: Planted, tmp_path: Path, operation: str) -> None:
    planted.server.instruments.fault(operation, "status", status=503, times=3)
    ended = run_on(planted, tmp_path)
    assert (ended.status, problems(planted)) == (0, [])
    first, second, *_ = ended.output.splitlines()
    assert (first, second.split()[0]) == (
        "Waiting for 127.0.0.1: the server answers 503 Service Unavailable",
        "The",
    )
    assert "0/0 objects" not in ended.output


def test_a_rate_limit_while_it_signs_in_is_waited_for(planted: Planted, tmp_path: Path) -> None:
    planted.server.instruments.fault("getClientConfig", "status", status=403, headers={"Retry-After": "1"})
    ended = run_on(planted, tmp_path)
    assert (ended.status, problems(planted)) == (0, []), ended.output


# -- compatible servers --


@pytest.fixture(scope="module")
def without_queries() -> Iterator[ServerProcess]:
    with ServerProcess("--ignore-queries") as process:
        yield process


def test_a_query_on_a_server_that_ignores_queries_is_refused(without_queries: ServerProcess, tmp_path: Path) -> None:
    registry = Planted(without_queries, new_project(without_queries))
    registry.version(registry.model())
    before = registry.state()
    for flag in ("--query", "--version-query"):
        ended = run_on(registry, tmp_path, flag, '`sys/id`:string = "X"')
        assert (ended.status, f"This server ignores queries, so {flag}" in ended.output) == (2, True), ended.output
    assert registry.state() == before


@pytest.mark.parametrize("flags", [(), ("--recopy",)], ids=["again", "recopy"])
def test_what_a_server_lists_unasked_is_not_copied(
    without_queries: ServerProcess, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    registry = Planted(without_queries, new_project(without_queries))
    model = registry.model()
    kept, gone = registry.version(model), registry.version(model)
    trash = "/api/leaderboard/v1/experiments/trash"
    registry.wire.post(trash, [f"{registry.project}/{gone}"], projectIdentifier=registry.project).raise_for_status()
    other = registry.run({"depth": value("int", 2)})
    ended = run_on(registry, tmp_path)
    assert ({row["source ID"] for row in ended.report}, ended.status) == ({model, kept}, 0), ended.output
    ended = run_on(registry, tmp_path, *flags)
    assert ({row["status"] for row in ended.report}, ended.status) == ({"copied" if flags else "up to date"}, 0)
    assert problems(registry) == [f"{other}: is a run that belongs to no model or version"]


def test_rows_with_their_attributes_by_path_are_read(tmp_path: Path) -> None:
    with ServerProcess("--attributes-by-path") as server:
        registry = Planted(server, new_project(server))
        registry.version(registry.model({"depth": value("int", 1)}))
        assert complete(registry, tmp_path) == []


@pytest.mark.parametrize("part", ["attributes", "attributes.type", "attributes.name"])
def test_an_answer_that_lacks_a_part_fails_one_object_in_words(planted: Planted, tmp_path: Path, part: str) -> None:
    planted.server.instruments.leave_out("getExperimentAttributes", part)
    ended = run_on(planted, tmp_path)
    assert (ended.status, "Traceback" in ended.output) == (1, False)
    lacking = part.rpartition(".")[2]
    assert f"reading the fields: the server's answer lacks '{lacking}'" in ended.output
    planted.server.instruments.clear_faults()
    assert complete(planted, tmp_path) == []


def test_a_size_of_another_type_stops_no_project(planted: Planted, tmp_path: Path) -> None:
    model = sources(planted)[0]
    planted.put(model, {"sys/size": value("string", "large")})
    ended = Play(planted, tmp_path).end()
    assert ended.status == 0, ended.output
    assert planted.runs()[model]["old_sys/size"] == value("string", "large")


def test_a_project_can_be_named_where_the_server_lists_none(planted: Planted, tmp_path: Path) -> None:
    planted.server.instruments.fault("listProjects", "status", status=404, times=None)
    try:
        ended = Play(planted, tmp_path).end()
    finally:
        planted.server.instruments.clear_faults()
    assert ended.status == 0, ended.output
