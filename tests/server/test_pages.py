"""The pages of the local server: at every address that is printed, true to the registry, and safe from it."""

from __future__ import annotations

import json
import uuid
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urljoin

import neptune
import pytest
import requests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from neptune import management

from tests.neptune_server.page_fields import thinned
from tests.neptune_server.page_tables import natural
from tests.neptune_server.process import ServerProcess
from tests.server.test_server_objects import open_run
from tests.support.markup import Element, open_page, read
from tests.support.planted import Planted, points, value
from tests.support.registry import encoded, id_of, picture, planted_file, planted_file_set
from tests.support.script import run_script
from tests.support.strategies import names
from tests.tools.gallery import ALTERATIONS, FIELDS, MANY_POINTS, Gallery


@pytest.fixture(scope="module")
def gallery(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """Left as it was by each test."""
    return Gallery(server, tmp_path_factory.mktemp("gallery"))


def rows_of_fields(page: Element) -> list[tuple[str, Element]]:
    """The last part of each field's path, and its row."""
    headers = [each for each in page.all("th") if each.attributes.get("scope") == "row"]
    return [(header.all("bdi")[0].text, header.parent) for header in headers if header.parent]


def marked(page: Element, class_name: str) -> set[str]:
    """The fields in whose rows there is such a mark."""
    return {name for name, row in rows_of_fields(page) if row.all(class_name=class_name)}


# -- addresses --


def test_whatever_address_the_client_prints_opens(project: str) -> None:
    with ExitStack() as stack:
        model = stack.enter_context(neptune.init_model(key="FOREST"))
        version = stack.enter_context(neptune.init_model_version(model=id_of(model)))
        run = stack.enter_context(open_run())
        opened = stack.enter_context(neptune.init_project(project))
        for container in (model, version, run, opened):
            name = "Runs" if container is opened else id_of(container)
            for url in (container.get_url(), f"{container.get_url().rstrip('/')}/metadata"):
                assert open_page(url).all("h1")[0].words.split()[0] == name


def test_every_address_of_a_report_opens_the_copy(gallery: Gallery) -> None:
    assert {row["source ID"] for row in gallery.session.report} == {gallery.model_id, gallery.version_id}
    for row in gallery.session.report:
        page = open_page(row["URL"])
        assert page.all("h1")[0].words.startswith(row["source ID"])
        assert row["run ID"] in page.words


def test_every_link_of_a_page_opens(gallery: Gallery) -> None:
    seen: set[str] = set()
    waiting = {f"{gallery.server.url}/"}
    while waiting:
        url = waiting.pop()
        seen.add(url)
        waiting |= links(gallery, url) - seen
    assert {f"{gallery.url}e/{run_id}" for run_id in gallery.run_ids.values()} < seen
    assert sum("/file?" in url for url in seen) == 2 * (1 + 2 + 3)


def links(gallery: Gallery, url: str) -> set[str]:
    """Where a page leads to, if it is one of the gallery's; what is at the address is there in any case."""
    answer = requests.get(url, timeout=60)
    assert answer.status_code == 200, url
    own = url == f"{gallery.server.url}/" or url.startswith(gallery.url)
    if not own or not answer.headers["Content-Type"].startswith("text/html"):
        return set()
    page = read(answer.text)
    found = [each.attributes["href"] for each in page.all("a")] + [each.attributes["src"] for each in page.all("img")]
    return {urljoin(url, link).partition("#")[0] for link in found}


@pytest.mark.parametrize(
    "path", ["api/leaderboard", "api/leaderboard/", "api/leaderboard/e/A-1", "_instruments/nothing", "auth/realms/"]
)
def test_an_unknown_address_of_the_api_is_no_page(server: ServerProcess, path: str) -> None:
    answer = requests.get(f"{server.url}/{path}", timeout=60)
    assert (answer.status_code, answer.history) == (404, [])
    assert not answer.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize(
    "path",
    [
        "../none/",
        "e/none",
        "e/{model_id}",
        "m/{version_id}",
        "m/none/v/{version_id}",
        "file?object={model_id}&field=no",
    ],
)
def test_a_page_of_nothing_says_so(gallery: Gallery, path: str) -> None:
    url = gallery.url + path.format(model_id=gallery.model_id, version_id=gallery.version_id)
    answer = requests.get(url, timeout=60)
    assert answer.status_code == 404
    assert "<h1>Not found</h1>" in answer.text


def test_pages_are_not_counted(gallery: Gallery) -> None:
    gallery.server.instruments.reset_counts()
    for url in (f"{gallery.server.url}/", gallery.url, f"{gallery.url}models", gallery.copy_url):
        open_page(url)
    assert gallery.server.instruments.counts()["requests"] == {}


# -- tables --


def cells(row: Element) -> list[str]:
    return [each.words for each in row.children if isinstance(each, Element)]


def run_rows(page: Element) -> list[list[str]]:
    return [cells(row) for row in page.all("table", "runs")[0].all("tr") if "group" not in row.classes]


def test_runs_are_grouped_by_group_tag(gallery: Gallery) -> None:
    page = open_page(gallery.url, metric="params/rate")
    groups = [row.words for row in page.all("tr", "group")]
    assert groups == [f"{gallery.model_id} 2 runs"]
    assert run_rows(page) == [
        ["Group tag", "Custom run ID", "Run ID", "Name", "Tags", "old_sys/stage", "params/rate"],
        [gallery.model_id, gallery.model_id, gallery.run_ids[gallery.model_id], "Forest", "credit model", "", ""],
        [
            *(gallery.model_id, gallery.version_id, gallery.run_ids[gallery.version_id]),
            *("", "best model_version", "staging", "0.1"),
        ],
    ]


def test_a_run_stands_in_each_of_its_groups_and_last_in_none(server: ServerProcess, project: str) -> None:
    planted = Planted(server, project)
    planted.run({"sys/group_tags": value("stringSet", ["G-10", "G-2"])})
    planted.run()
    page = open_page(f"{server.url}/{project}/")
    assert [row.words for row in page.all("tr", "group")] == ["G-2 1 run", "G-10 1 run", "No group tag 1 run"]


def test_runs_are_filtered_by_tag(gallery: Gallery) -> None:
    page = open_page(gallery.url, tag="model_version")
    assert [row[1] for row in run_rows(page)[1:]] == [gallery.version_id]
    assert "1 of 2 runs" in page.words
    assert [each.attributes["value"] for each in page.all("option") if "selected" in each.attributes] == [
        "model_version"
    ]
    assert "no runs to show" in open_page(gallery.url, tag="none").words


def test_a_column_shows_a_field_of_each_type_that_has_a_value(gallery: Gallery) -> None:
    offered = {each.attributes["value"] for each in open_page(gallery.url).all("datalist")[0].all("option")}
    assert {"params/depth", "params/trained at", "val/loss", "old_sys/size"} <= offered
    assert offered.isdisjoint({"val/log", "weights", "labels"})
    page = open_page(f"{gallery.url}?metric=val/loss&metric=params/trained+at")
    assert run_rows(page)[2][-2:] == ["0.0333333", "2023-11-14T22:13:20.001Z"]


def test_a_column_of_nothing_is_said(gallery: Gallery) -> None:
    assert "No run has a field <b>no</b>" in open_page(gallery.url, metric="<b>no</b>").words


def test_what_is_in_the_trash_is_counted_only(server: ServerProcess, project: str) -> None:
    planted = Planted(server, project)
    kept, trashed = planted.run(), planted.run()
    management.trash_objects(project, trashed)
    page = open_page(f"{server.url}/{project}/")
    assert [row[2] for row in run_rows(page)[1:]] == [kept]
    assert "1 in the trash" in page.words
    assert "in the trash" in open_page(f"{server.url}/{project}/e/{trashed}").words


def test_a_project_of_nothing_says_so(server: ServerProcess, project: str) -> None:
    runs = open_page(f"{server.url}/{project}/")
    assert "There are no runs. See the models." in runs.words
    assert runs.all("form") == []
    assert "There are no models." in open_page(f"{server.url}/{project}/models").words


def test_groups_of_many_runs_are_folded_until_somebody_chooses(server: ServerProcess, project: str) -> None:
    planted = Planted(server, project)
    for number in range(101):
        planted.run(custom_id=f"run-{number}")
    for query, shown in [("", False), ("?tag=", True), ("?tag=&folded=on", False)]:
        (fold,) = open_page(f"{server.url}/{project}/{query}").all("input", "fold")
        assert ("checked" in fold.attributes) == shown


def test_models_have_their_versions_and_runs_beside_them(gallery: Gallery) -> None:
    (row,) = open_page(f"{gallery.url}models").all("tr")[1:]
    assert cells(row) == [
        f"{gallery.model_id} Forest credit",
        gallery.run_ids[gallery.model_id],
        *(gallery.version_id, "", "staging", "best", gallery.run_ids[gallery.version_id]),
    ]


def test_ids_are_sorted_as_people_count() -> None:
    assert sorted(["A-10", "A", "A-9", "9", "10-A"], key=natural) == ["9", "10-A", "A", "A-9", "A-10"]


# -- one object --


def verdict(page: Element) -> str:
    return page.all(class_name="verdict")[0].words


def folded(page: Element) -> set[str]:
    """The namespaces that are folded."""
    return {each.all("bdi")[0].text for each in page.all("details", "namespace") if "open" not in each.attributes}


def test_a_copy_is_shown_to_be_equal(gallery: Gallery) -> None:
    page = open_page(gallery.copy_url)
    assert marked(page, "different") == set()
    assert {path.rpartition("/")[2] for path in FIELDS} | {"modification_time", "stage"} <= marked(page, "equal")
    copied = len(gallery.state()["containers"][gallery.version_id]["attributes"]) - len(["sys/state"])
    assert verdict(page) == f"= {copied} fields are equal, none differs, 1 was not copied (sys/state)."


@pytest.mark.parametrize("what", ALTERATIONS)
def test_what_is_altered_is_shown_to_differ_and_nothing_else(gallery: Gallery, what: str) -> None:
    path, attribute = ALTERATIONS[what]
    with gallery.altered({path: attribute}):
        page, only = open_page(gallery.copy_url), open_page(f"{gallery.copy_url}?only=differences")
    assert marked(page, "different") == {path.rpartition("/")[2]}
    assert "fields are equal, ≠ 1 differs, 1 was not copied" in verdict(page)
    assert f"{gallery.copy_url}?only=differences" in [
        urljoin(gallery.url, each.attributes["href"]) for each in page.all("a")
    ]
    assert {name for name, _ in rows_of_fields(only)} == {path.rpartition("/")[2], "state"}
    assert verdict(only) == verdict(page)


def test_a_stage_that_became_a_tag_is_equal(server: ServerProcess, project: str, tmp_path: Path) -> None:
    planted = Planted(server, project)
    version = planted.version(planted.model(), {"sys/stage": value("string", "production")})
    session = run_script(server, "--project", project, "--workers", "1", "--stage-as-tag", cwd=tmp_path)
    page = open_page(session.row(version)["URL"])
    assert marked(page, "different") == set()
    assert "kept as a tag" in page.words


def test_what_is_not_copied_is_shown_beside_nothing(server: ServerProcess, project: str, tmp_path: Path) -> None:
    planted = Planted(server, project)
    reference = {"type": "notebookRef", "notebookName": "notes.ipynb"}
    planted.model({"made/by": reference})
    session = run_script(server, "--project", project, "--workers", "1", cwd=tmp_path)
    page = open_page(session.report[0]["URL"])
    (row,) = [row for row in page.all("tr") if "notes.ipynb" in row.text]
    assert cells(row) == ["by notebookRef", "", "notebookName: notes.ipynb", "not copied"]
    assert "none differs, 2 were not copied (made/by, sys/state)" in verdict(page)


def test_fields_of_the_server_are_folded_unless_they_differ(gallery: Gallery) -> None:
    assert folded(open_page(gallery.copy_url)) == {"sys/", "old_sys/"}
    with gallery.altered({"sys/tags": value("stringSet", ["Best"])}):
        assert folded(open_page(gallery.copy_url)) == {"old_sys/"}


def test_what_both_lack_and_a_copy_has_to_have_is_missing(server: ServerProcess, project: str) -> None:
    planted = Planted(server, project)
    run = planted.run({"old_sys/id": value("string", planted.model())})
    server.instruments.set_attribute(project, run, "sys/tags", None)
    page = open_page(f"{server.url}/{project}/e/{run}")
    assert {"tags", "group_tags", "custom_run_id", "modification_time"} <= marked(page, "different")


def test_a_version_leads_to_its_run(gallery: Gallery) -> None:
    page = open_page(f"{gallery.url}m/{gallery.model_id}/v/{gallery.version_id}")
    assert f"Copied to the run {gallery.run_ids[gallery.version_id]}" in page.words
    assert {name for name, _ in rows_of_fields(page)} >= {path.rpartition("/")[2] for path in FIELDS}


def test_the_tracked_files_of_an_artifact_are_listed(gallery: Gallery) -> None:
    assert "f" * 64 + " train.csv 7 bytes" in open_page(gallery.copy_url).words


def test_a_path_of_many_parts_is_shown(server: ServerProcess, project: str) -> None:
    planted = Planted(server, project)
    model = planted.model({"/".join(["a"] * 400): value("int", 1)})
    page = open_page(f"{server.url}/{project}/m/{model}")
    assert "/".join(["a"] * 392) in [each.text for each in page.all("bdi")]


# -- series --


@given(st.lists(st.floats(allow_nan=False) | st.just("NaN"), max_size=200), st.integers(4, 40))
def test_thinning_keeps_the_ends_the_extremes_and_the_order(values: list[float | str], limit: int) -> None:
    points = [[float(step), 0, each] for step, each in enumerate(values)]
    kept = thinned(points, limit)
    assert len(kept) <= max(limit, 0)
    assert [point[0] for point in kept] == sorted({point[0] for point in kept})
    numbers = [each for each in values if not isinstance(each, str)]
    shown = [point[2] for point in kept if not isinstance(point[2], str)]
    if numbers:
        assert (min(shown), max(shown)) == (min(numbers), max(numbers))
        assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_many_points_are_thinned_and_that_is_said(server: ServerProcess, project: str) -> None:
    planted = Planted(server, project)
    series = points("floatSeries", [[float(step), step, (-1) ** step * step] for step in range(MANY_POINTS)])
    page = open_page(f"{server.url}/{project}/m/{planted.model({'loss': series})}")
    assert "2,000 of 200,000 points shown" in page.words
    assert "100 of 200,000 points shown" in page.words
    (drawn,) = page.all("div", "chart")
    assert "lowest -199999.0, highest 199998.0" in drawn.attributes["aria-label"]
    assert drawn.attributes["data-chart"].endswith("-199999.0]}")


def test_what_cannot_be_drawn_is_a_gap(server: ServerProcess, project: str) -> None:
    planted = Planted(server, project)
    values = ["NaN", 1.0, "Infinity", 1e308, "-Infinity"]
    series = points("floatSeries", [[float(step), step, each] for step, each in enumerate(values)])
    page = open_page(f"{server.url}/{project}/m/{planted.model({'loss': series})}")
    (drawn,) = page.all("div", "chart")
    assert json.loads(drawn.attributes["data-chart"])["values"] == [None, 1.0, None, None, None]
    assert "highest 1e+308" in drawn.attributes["aria-label"]
    assert "4 of them are gaps" in page.words


def test_of_many_images_some_are_shown_from_the_first_to_the_last(server: ServerProcess, project: str) -> None:
    planted = Planted(server, project)
    content = {"content": encoded(picture(1))}
    images = points("imageSeries", [[float(step), step, content] for step in range(100)])
    page = open_page(f"{server.url}/{project}/m/{planted.model({'roc': images})}")
    captions = [each.words.split()[1] for each in page.all("figcaption")]
    assert (len(captions), captions[0], captions[-1]) == (48, "0.0", "99.0")
    assert "48 of 100 images shown" in page.words


# -- nothing that a registry holds becomes markup --

HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "' onmouseover='alert(1)",
    "<!-- ]]> -->",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "&lt;b&gt;",
    "&amp",
)


def nasty_fields(text: str) -> dict[str, dict[str, object]]:
    """A text wherever a registry has room for one."""
    part = text.replace("/", "|")
    image = {"content": encoded(picture(1)), "name": text, "description": text}
    return {
        f"a {part}/b {part}": value("string", text),
        "c": value("stringSet", [text]),
        "d": points("stringSeries", [[0.0, 0, text]]),
        "e": points("imageSeries", [[0.0, 0, image]]),
        "f": {**points("floatSeries", [[0.0, 0, 1.0]]), "config": {"unit": text}},
        "g": planted_file(b"", text),
        "h": planted_file_set({text: b""}),
        "i": {"type": "notebookRef", "notebookName": text},
        "sys/name": value("string", text),
        "sys/tags": value("stringSet", [text]),
        "sys/group_tags": value("stringSet", [text]),
        "old_sys/stage": value("string", text),
    }


def nasty_pages(server: ServerProcess, project: str, text: str) -> list[Element]:
    """The pages of a model and a run that hold a text, the run being taken for the model's copy."""
    planted = Planted(server, project)
    source = planted.model(nasty_fields(text), key="SOURCE")
    run = planted.run({**nasty_fields(f"{text}."), "old_sys/id": value("string", source)})
    base = f"{server.url}/{project}/"
    pages = [open_page(url) for url in (base, f"{base}models", f"{base}e/{run}", f"{base}m/{source}")]
    management.trash_objects(project, [source, run])
    management.delete_objects_from_trash(project, [source, run])
    return pages


@pytest.fixture(scope="module")
def nasty(server: ServerProcess) -> str:
    project = f"acme/nasty-{uuid.uuid4().hex[:12]}"
    server.instruments.create_project(project)
    return project


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names.filter(lambda name: len(name) < 100))
@example(HOSTILE[0])
@example(HOSTILE[1])
@example(HOSTILE[2])
@example(HOSTILE[3])
@example(HOSTILE[4])
@example(HOSTILE[5])
@example(HOSTILE[6])
@example(HOSTILE[7])
def test_no_text_of_a_registry_becomes_markup(server: ServerProcess, nasty: str, text: str) -> None:
    pages, harmless = (nasty_pages(server, nasty, each) for each in (text, "plain"))
    assert [page.shape() for page in pages] == [page.shape() for page in harmless]
    assert all(text in page.text for page in pages)


def test_pages_run_no_script_but_their_own(gallery: Gallery) -> None:
    policy = requests.get(gallery.copy_url, timeout=60).headers["Content-Security-Policy"]
    assert {"default-src 'none'", "script-src 'self'", "img-src 'self'"} <= {each.strip() for each in policy.split(";")}
    for script in open_page(gallery.copy_url).all("script"):
        assert script.attributes["src"].startswith("/_pages/")
        assert requests.get(urljoin(gallery.server.url, script.attributes["src"]), timeout=60).status_code == 200


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


def test_a_file_is_saved_and_never_opened(server: ServerProcess, project: str) -> None:
    planted = Planted(server, project)
    page = b"<script>alert(1)</script>"
    drawing = {"content": encoded(SVG), "content_type": "image/svg+xml"}
    files = {
        "p ä/x?&#": planted_file(page, "html"),
        "set": planted_file_set({"a b/ü%2F.svg": SVG}),
        "images": points("imageSeries", [[0.0, 0, drawing], [1.0, 0, {"content": encoded(picture(1))}]]),
    }
    shown = open_page(f"{server.url}/{project}/m/{planted.model(files)}")
    links = [link for link in shown.all("a") if "download" in link.attributes]
    answers = [requests.get(urljoin(server.url, link.attributes["href"]), timeout=60) for link in links]
    assert sorted(answer.content for answer in answers) == sorted([SVG, SVG, picture(1), page])
    for answer in answers:
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        wanted = "image/png" if answer.content == picture(1) else "application/octet-stream"
        assert answer.headers["Content-Type"] == wanted
    assert len(shown.all("img")) == 1
