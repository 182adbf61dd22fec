"""Pages for a person, at the addresses that the client prints. No sign-in, and not counted as traffic."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from . import page_fields
from .attributes import Attribute, File, FileSet, ImageSeries, date_time
from .files import StoredFile
from .instruments import fields_of, hash_files
from .page_tables import copies, models_table, runs_table, source_of, text_of
from .server import Server
from .store import MODEL, MODEL_VERSION, RUN, Container, NotFoundError, Project

FOLDER = Path(__file__).parent
KINDS = {RUN: "run", MODEL: "model", MODEL_VERSION: "model version"}
IMAGE_TYPES = {"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"}
"""What is shown as an image. SVG is not among them: it is a document, which may hold a script."""
COLUMNS_TO_CHOOSE = 2
RUNS_UNFOLDED = 100
"""With more runs, the groups are folded until a person chooses otherwise."""
# The plot library sets styles from its script. It runs no text as a program, and all that it loads comes from here.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
FILE_HEADERS = {**PAGE_HEADERS, "Content-Security-Policy": "default-src 'none'; sandbox"}


class WorkspaceConvertor(Convertor[str]):
    """A workspace's name: whatever the server's other addresses do not begin with."""

    regex = r"(?!(?:api|auth|_instruments|_pages)(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("workspace", WorkspaceConvertor())


def routes(server: Server) -> list[BaseRoute]:
    pages = Pages(server)
    project = "/{workspace:workspace}/{project}"
    addresses: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/": pages.home,
        f"{project}/": pages.runs,
        f"{project}/models": pages.models,
        f"{project}/file": pages.file,
        f"{project}/e/{{run}}": pages.run,
        f"{project}/m/{{model}}": pages.model,
        f"{project}/m/{{model}}/v/{{version}}": pages.version,
    }
    # The client says where to explore the metadata, too, when it has written some.
    explored = {f"{path.rstrip('/')}/metadata": page for path, page in addresses.items() if path != "/"}
    return [
        Route("/_pages/plotly.min.js", plot_library),
        Mount("/_pages", StaticFiles(directory=FOLDER / "static")),
        *(Route(path, pages.answering(page)) for path, page in {**addresses, **explored}.items()),
    ]


async def plot_library(_: Request) -> Response:
    """The script of the plot library as it lies in its package, which is not imported: that would take its time."""
    package = importlib.util.find_spec("plotly")
    if package is None or package.origin is None:
        return Response("plotly is not installed", status_code=404)
    script = Path(package.origin).parent / "package_data" / "plotly.min.js"
    return FileResponse(script, media_type="text/javascript", headers={"Cache-Control": "max-age=3600"})


@dataclass(frozen=True)
class Addresses:
    """Where the pages and the files of a project are."""

    project: Project

    def runs(self, **query: str) -> str:
        base = f"/{quote(self.project.workspace.name, safe='')}/{quote(self.project.name, safe='')}/"
        return f"{base}?{urlencode(query)}" if query else base

    def models(self) -> str:
        return f"{self.runs()}models"

    def of(self, container: Container) -> str:
        sys_id = quote(container.sys_id, safe="")
        if container.kind == MODEL_VERSION:
            model = quote(text_of(container, "sys/model_id"), safe="")
            return f"{self.runs()}m/{model}/v/{sys_id}"
        return f"{self.runs()}{'e' if container.kind == RUN else 'm'}/{sys_id}"

    def file(self, sys_id: str, path: str, **which: Any) -> str:
        """`member` names a file of a set, `number` an image of a series."""
        return f"{self.runs()}file?{urlencode({'object': sys_id, 'field': path, **which})}"


class Pages:
    def __init__(self, server: Server) -> None:
        self.store = server.store
        self.templates = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.globals.update(
            chart=page_fields.chart, spread=page_fields.spread, moment=date_time, kinds=KINDS, image_types=IMAGE_TYPES
        )

    def answering(self, page: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await page(request)
            except NotFoundError as error:
                return await self._render("missing.html", 404, words=str(error))

        return answer

    async def _render(self, template: str, status: int = 200, **values: Any) -> Response:
        content = await asyncio.to_thread(self.templates.get_template(template).render, **values)
        return HTMLResponse(content, status, PAGE_HEADERS)

    def _project(self, request: Request) -> Project:
        return self.store.project("{workspace}/{project}".format(**request.path_params))

    async def home(self, _: Request) -> Response:
        projects = sorted(self.store.projects.values(), key=lambda project: project.qualified_name)
        return await self._render("projects.html", projects=[(each, Addresses(each).runs()) for each in projects])

    async def runs(self, request: Request) -> Response:
        project, query = self._project(request), request.query_params
        tag = query.get("tag", "")
        metrics = [path for path in query.getlist("metric") if path][:COLUMNS_TO_CHOOSE]
        table = runs_table(project, tag, metrics)
        return await self._render(
            "runs.html",
            project=project,
            addresses=Addresses(project),
            table=table,
            tag=tag,
            metrics=metrics,
            inputs=[*metrics, *[""] * COLUMNS_TO_CHOOSE][:COLUMNS_TO_CHOOSE],
            folded="folded" in query or (not query and table.count > RUNS_UNFOLDED),
        )

    async def models(self, request: Request) -> Response:
        project = self._project(request)
        return await self._render(
            "models.html",
            project=project,
            addresses=Addresses(project),
            rows=models_table(project),
            copies=copies(project),
            text=text_of,
        )

    async def run(self, request: Request) -> Response:
        run = self._object(request, request.path_params["run"], RUN)
        only_differences = request.query_params.get("only") == "differences"
        return await self._object_page(run, source_of(run), only_differences)

    async def model(self, request: Request) -> Response:
        return await self._object_page(self._object(request, request.path_params["model"], MODEL))

    async def version(self, request: Request) -> Response:
        version = self._object(request, request.path_params["version"], MODEL_VERSION)
        if text_of(version, "sys/model_id") != request.path_params["model"]:
            raise NotFoundError(f"{version.sys_id} is no version of {request.path_params['model']}")
        return await self._object_page(version)

    def _object(self, request: Request, sys_id: str, kind: str) -> Container:
        found = self.store.container(f"{self._project(request).qualified_name}/{sys_id}")
        if found.kind != kind:
            raise NotFoundError(f"{sys_id} is no {KINDS[kind]}")
        return found

    async def _object_page(
        self, shown: Container, source: Container | None = None, only_differences: bool = False
    ) -> Response:
        await hash_files([shown, source] if source else [shown])
        lines = everything = await _lines(shown, source)
        if source and only_differences:
            lines = [line for line in everything if line.mark in (page_fields.DIFFERENT, page_fields.LEFT)]
        return await self._render(
            "object.html",
            project=shown.project,
            addresses=Addresses(shown.project),
            object=shown,
            name=text_of(shown, "sys/name"),
            source=source,
            runs=copies(shown.project).get(shown, []),
            root=page_fields.tree(lines),
            all_fields=page_fields.tree(everything),
            not_copied=sorted(line.source_path for line in everything if line.mark == page_fields.LEFT),
            only_differences=only_differences,
            marks=page_fields,
            charted=any("floatSeries" in line.types for line in lines),
            artifact_files={version.hash: version.files or [] for version in shown.project.artifacts.values()},
        )

    async def file(self, request: Request) -> Response:
        project, query = self._project(request), request.query_params
        container = self.store.container(f"{project.qualified_name}/{query.get('object', '')}")
        attribute = container.attribute(query.get("field", ""))
        return _attachment(*_file(attribute, query.get("field", ""), query.get("member"), query.get("number", "")))


async def _lines(shown: Container, source: Container | None) -> list[page_fields.Line]:
    fields = fields_of(shown)
    if source is None:
        return page_fields.alone(fields)
    return await asyncio.to_thread(page_fields.beside, fields, fields_of(source), source.sys_id, source.kind)


def _file(attribute: Attribute | None, path: str, member: str | None, number: str) -> tuple[StoredFile, str, str]:
    """A file with the name to save it under and its type."""
    name = path.rpartition("/")[2]
    if isinstance(attribute, File):
        return attribute.stored, f"{name}.{attribute.ext}" if attribute.ext else name, ""
    if isinstance(attribute, FileSet) and member in attribute.files:
        return attribute.files[member], member.rpartition("/")[2], ""
    if isinstance(attribute, ImageSeries) and number.isdecimal() and int(number) < len(attribute):
        image = attribute.values[int(number)]
        return image.stored, f"{name} {number}", image.content_type
    raise NotFoundError(f"There is no such file under '{path}'")


def _attachment(stored: StoredFile, name: str, content_type: str) -> Response:
    """Never a document of this server: it is saved, or at most drawn as an image in a page."""
    kind = content_type if content_type in IMAGE_TYPES else "application/octet-stream"
    return FileResponse(stored.path, media_type=kind, filename=name, headers=FILE_HEADERS)
