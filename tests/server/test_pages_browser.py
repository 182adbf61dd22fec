"""The pages of the local server in a browser: as they look, by keyboard, for screen readers, and against scripts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.neptune_server.process import ServerProcess
from tests.support.browser import opened_browser, reason_against
from tests.support.planted import Planted, points, value
from tests.support.registry import encoded, picture, planted_file, planted_file_set
from tests.tools.gallery import ALTERATIONS, Gallery

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(bool(reason_against()), reason=reason_against())

PAGES = {
    "projects": "../../",
    "runs": "?metric=params/rate&metric=val/loss",
    "models": "models",
    "run": "e/{run}",
    "model": "m/{model}",
    "version": "m/{model}/v/{version}",
}
NARROW = {"width": 360, "height": 640}
PHONE = {"width": 390, "height": 844}
WIDE = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def gallery(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return Gallery(server, tmp_path_factory.mktemp("gallery"))


@dataclass
class Visit:
    """A page, and what the browser had to say and to ask for while it was open."""

    page: Page
    messages: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)


@contextmanager
def visiting(browser: Browser, url: str, **settings: Any) -> Iterator[Visit]:
    with browser.new_context(**{"viewport": WIDE, **settings}) as context:
        visit = Visit(context.new_page())
        visit.page.on("console", lambda message: visit.messages.append(message.text))
        visit.page.on("pageerror", lambda error: visit.messages.append(error.message))
        visit.page.on("dialog", lambda dialog: visit.messages.append(dialog.message))
        visit.page.on("request", lambda request: visit.addresses.append(request.url))
        visit.page.goto(url)
        yield visit


def url_of(gallery: Gallery, name: str) -> str:
    names = {"model": gallery.model_id, "version": gallery.version_id, "run": gallery.run_ids[gallery.version_id]}
    return gallery.url + PAGES[name].format(**names)


def wait_for_charts(page: Page) -> None:
    for chart in page.locator("[data-chart]").all():
        chart.scroll_into_view_if_needed()
        chart.locator("svg .lines path").first.wait_for(state="attached")


# -- sound pages --


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_asks_nobody_else(browser: Browser, gallery: Gallery, name: str) -> None:
    with visiting(browser, url_of(gallery, name), color_scheme="light") as visit:
        wait_for_charts(visit.page)
        assert violations(visit.page) == []
        visit.page.emulate_media(color_scheme="dark")
        assert violations(visit.page) == []
        assert visit.messages == []
        assert [url for url in visit.addresses if not url.startswith(f"{gallery.server.url}/")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_differences_can_be_read(browser: Browser, gallery: Gallery, scheme: str) -> None:
    with (
        gallery.altered(dict(ALTERATIONS.values())),
        visiting(browser, url_of(gallery, "run"), color_scheme=scheme) as visit,
    ):
        assert visit.page.locator("tr.differs").count() == len(dict(ALTERATIONS.values()))
        assert violations(visit.page) == []


def violations(page: Page) -> list[str]:
    """What is hard to read or to use, contrast included, in the colours that the page has now."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize("name", PAGES)
def test_a_narrow_window_scrolls_tables_and_not_the_page(browser: Browser, gallery: Gallery, name: str) -> None:
    with visiting(browser, url_of(gallery, name), viewport=NARROW) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]


TOO_WIDE = """[...document.querySelectorAll(".tree, .runs, .models, .choices")].filter(
    each => each.parentElement.scrollWidth > each.parentElement.clientWidth).map(each => each.className)"""


def test_on_a_phone_nothing_is_beside_the_screen_however_long_its_name(browser: Browser, server: ServerProcess) -> None:
    project = f"acme/l-{uuid.uuid4().hex[:12]}"
    server.instruments.create_project(project)
    planted, long = Planted(server, project), "a_name_without_a_blank_" * 10
    fields = {f"{long}/{long}": value("string", long), "images": points("imageSeries", []), "n": value("int", 1)}
    fields |= {path: value("stringSet", [long]) for path in ("sys/tags", "sys/group_tags")}
    fields |= {path: value("string", long) for path in ("sys/name", "old_sys/stage")}
    model = planted.model(fields, key="ABCDEFGHIJKLMNOPQRST")
    planted.version(model, fields)
    run = planted.run({**fields, "old_sys/id": value("string", model), "n": value("int", 2)}, custom_id="c" * 36)
    base = f"{server.url}/{project}/"
    with visiting(browser, base, viewport=PHONE) as visit:
        for url in (f"{base}?metric=n&metric={long}", f"{base}models", f"{base}e/{run}", f"{base}m/{model}"):
            visit.page.goto(url)
            assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], url
            assert visit.page.evaluate(TOO_WIDE) == [], url
        visit.page.goto(f"{base}e/{run}?only=differences")
        values = visit.page.locator("tr", has=visit.page.get_by_text("n", exact=True)).locator("[data-whose]")
        assert [values.nth(number).inner_text() for number in range(2)] == ["2", "1"]
        boxes = [values.nth(number).bounding_box() for number in range(2)]
        assert boxes[0] and boxes[1] and boxes[0]["y"] == boxes[1]["y"]
        visit.page.set_viewport_size({"width": 1280, "height": 900})
        for url in (base, f"{base}models", f"{base}e/{run}"):
            visit.page.goto(url)
            assert visit.page.evaluate("document.documentElement.scrollWidth") == WIDE["width"], url


def test_charts_change_with_the_colours_of_the_page(browser: Browser, gallery: Gallery) -> None:
    with visiting(browser, url_of(gallery, "run"), color_scheme="light") as visit:
        page = visit.page
        wait_for_charts(page)
        line = page.locator("[data-chart] svg .lines path").first
        light = line.evaluate("line => getComputedStyle(line).stroke")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(
            "before => getComputedStyle(document.querySelector('[data-chart] svg .lines path')).stroke != before",
            arg=light,
        )
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background


def test_images_are_seen(browser: Browser, gallery: Gallery) -> None:
    with visiting(browser, url_of(gallery, "run")) as visit:
        images = visit.page.locator(".strip img")
        assert images.count() == 6
        for image in images.all():
            image.scroll_into_view_if_needed()
            image.evaluate("image => image.decode()")
            assert image.evaluate("image => image.naturalWidth") == 8


# -- the keyboard --


def test_a_group_is_folded_by_keyboard(browser: Browser, gallery: Gallery) -> None:
    with visiting(browser, url_of(gallery, "runs")) as visit:
        page = visit.page
        fold = page.get_by_role("checkbox", name=f"Show the runs of {gallery.model_id}")
        row = page.get_by_role("link", name=gallery.version_id, exact=True)
        reach(page, fold)
        assert row.is_visible()
        page.keyboard.press("Space")
        assert not row.is_visible()
        page.keyboard.press("Space")
        assert row.is_visible()


def reach(page: Page, wanted: Any) -> None:
    """Moves the focus there as a keyboard does."""
    for _ in range(50):
        page.keyboard.press("Tab")
        if wanted.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError("It cannot be reached by keyboard")


def test_a_namespace_is_folded_by_keyboard(browser: Browser, gallery: Gallery) -> None:
    with visiting(browser, url_of(gallery, "run")) as visit:
        page = visit.page
        summary = page.locator("summary", has_text="params/")
        value_shown = page.get_by_text("lbfgs").first
        reach(page, summary)
        assert value_shown.is_visible()
        page.keyboard.press("Enter")
        assert not value_shown.is_visible()


def test_the_table_is_chosen_by_keyboard(browser: Browser, gallery: Gallery) -> None:
    with visiting(browser, gallery.url) as visit:
        page = visit.page
        reach(page, page.get_by_label("Tag", exact=True))
        page.keyboard.type("model_version")
        page.keyboard.press("Tab")
        page.keyboard.type("params/solver")
        page.keyboard.press("Enter")
        page.wait_for_url("**tag=model_version**")
        assert page.get_by_role("columnheader", name="params/solver").is_visible()
        assert page.get_by_role("cell", name="lbfgs").count() == 1
        assert page.get_by_role("link", name=gallery.model_id, exact=True).count() == 0


def test_groups_can_be_folded_from_the_start(browser: Browser, gallery: Gallery) -> None:
    with visiting(browser, f"{gallery.url}?folded=on") as visit:
        assert visit.page.get_by_role("rowheader", name=gallery.model_id).first.is_visible()
        assert not visit.page.get_by_role("link", name=gallery.version_id).is_visible()


def test_the_first_link_skips_to_the_content(browser: Browser, gallery: Gallery) -> None:
    with visiting(browser, gallery.url) as visit:
        visit.page.keyboard.press("Tab")
        visit.page.keyboard.press("Enter")
        visit.page.keyboard.press("Tab")
        assert visit.page.get_by_label("Tag", exact=True).evaluate("element => element === document.activeElement")


# -- nothing that a registry holds does anything --

SCRIPT = "<script>window.hurt = true</script><img src=x onerror='window.hurt = true'>"
HOSTILE = f"</bdi></script>\"'>{SCRIPT}"


@pytest.fixture(scope="module")
def hostile(server: ServerProcess) -> str:
    """A project with a run that means harm."""
    project = f"acme/h-{uuid.uuid4().hex[:12]}"
    server.instruments.create_project(project)
    drawing = {"content": encoded(f"<svg xmlns='http://www.w3.org/2000/svg'>{SCRIPT}</svg>".encode())}
    image = {"content": encoded(picture(1)), "name": HOSTILE, "description": HOSTILE}
    series = points("floatSeries", [[0.0, 0, 1.0], [1.0, 0, 2.0]])
    fields = {
        HOSTILE.replace("/", "|"): value("string", HOSTILE),
        "images": points("imageSeries", [[0.0, 0, image], [1.0, 0, {**drawing, "content_type": "image/svg+xml"}]]),
        "series": {**series, "config": {"unit": HOSTILE}},
        "page": planted_file(HOSTILE.encode(), "html"),
        "set": planted_file_set({HOSTILE: HOSTILE.encode()}),
        **{path: value("stringSet", [HOSTILE]) for path in ("sys/tags", "sys/group_tags")},
        **{path: value("string", HOSTILE) for path in ("sys/name", "old_sys/stage")},
    }
    Planted(server, project).run(fields)
    return f"{server.url}/{project}/"


@pytest.mark.parametrize("path", ["", "?metric=old_sys/stage", "e/{}"])
def test_no_script_of_a_registry_runs(browser: Browser, hostile: str, path: str) -> None:
    with visiting(browser, hostile + path.format(first_run(browser, hostile))) as visit:
        wait_for_charts(visit.page)
        assert "window.hurt" in visit.page.locator("main").inner_text()
        assert visit.page.evaluate("window.hurt") is None
        assert visit.messages == []


def first_run(browser: Browser, url: str) -> str:
    with visiting(browser, url) as visit:
        return visit.page.locator("tbody th[scope=row]").first.inner_text().strip()


def test_an_uploaded_page_is_saved_and_not_opened(browser: Browser, hostile: str) -> None:
    with visiting(browser, f"{hostile}e/{first_run(browser, hostile)}") as visit:
        address = visit.page.get_by_role("link", name="page.html").get_attribute("href")
        with visit.page.expect_download() as saving:
            visit.page.evaluate("address => { location = address }", address)
        assert saving.value.suggested_filename == "page.html"
        assert "/e/" in visit.page.url
