"""`python -m tests.neptune_server`: prints the environment for the client, and serves until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import ssl
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from itertools import zip_longest
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .app import create_app
from .connections import watching
from .search import TableHabits
from .server import Options, Server
from .store import InvalidError
from .tls import own_certificate

DEFAULT_PROJECT = "local/registry"
READY = "# Serving"
KEEP_ALIVE_SECONDS = 75
LAST_SECONDS = 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.neptune_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (0: a free one)")
    parser.add_argument("--tls", action="store_true", help="serve https, with a certificate of an authority of its own")
    parser.add_argument("--data", type=Path, help="folder for uploads (a temporary one, removed at the end)")
    parser.add_argument(
        "--project",
        action="append",
        metavar="WORKSPACE/NAME",
        help=f"project to begin with, may be repeated ({DEFAULT_PROJECT})",
    )
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY",
        help="project key for the first --project, the second ... (made from the name)",
    )
    parser.add_argument("--token-ttl", type=float, default=300.0, metavar="S", help="life of an access token")
    parser.add_argument("--index-lag", type=float, default=0.0, metavar="S", help="how far searches lag behind")
    parser.add_argument("--archive-delay", type=float, default=0.0, metavar="S", help="time before a zip is begun")
    parser.add_argument("--client-names", action="store_true", help="leave the naming of runs to the client")
    parser.add_argument(
        "--ignore-queries", action="store_true", help="tables list all objects of a type, whatever the query"
    )
    parser.add_argument(
        "--attributes-by-path", action="store_true", help="the fields of a table's rows are an object, not a list"
    )
    parser.add_argument("--projects-per-page", type=int, metavar="N", help="projects listed at most in an answer")
    parser.add_argument(
        "--without", action="append", default=[], metavar="OPERATIONID", help="an operation to do without, repeatable"
    )
    parser.add_argument(
        "--parent-watch", choices=("none", "stdin"), default="none", help="`stdin`: end when standard input does"
    )
    return parser.parse_args()


class EnvironmentPrintingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, lines: list[str]) -> None:
        super().__init__(config)
        self.lines = lines

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print("\n".join(self.lines), flush=True)

    def watch_standard_input(self) -> None:
        def wait() -> None:
            # Not through sys.stdin: a thread that reads there when the interpreter ends makes it crash.
            while os.read(0, 4096):
                pass
            self.should_exit = True

        threading.Thread(target=wait, daemon=True).start()


def listening_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Connections inherit the protocol's number, and without it are not set to send small packets at once.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def reachable_url(scheme: str, host: str, port: int) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{scheme}://{name}:{port}"


def environment_of(server: Server, url: str, project: str, certificate: Path | None) -> dict[str, str]:
    """`certificate` is the file of the authority that a client has to trust; without one, the client uses http."""
    connecting = {"REQUESTS_CA_BUNDLE": str(certificate)} if certificate else {"OAUTHLIB_INSECURE_TRANSPORT": "1"}
    return {"NEPTUNE_API_TOKEN": server.authority.api_token(url), "NEPTUNE_PROJECT": project, **connecting}


def main() -> None:
    wanted = arguments()
    options = Options(
        token_ttl=wanted.token_ttl,
        index_lag=wanted.index_lag,
        archive_delay=wanted.archive_delay,
        client_names=wanted.client_names,
        projects_per_page=wanted.projects_per_page,
        without=frozenset(wanted.without),
        tables=TableHabits(wanted.ignore_queries, wanted.attributes_by_path),
    )
    with ExitStack() as stack:
        folder = wanted.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="neptune-server-")))
        projects = wanted.project or [DEFAULT_PROJECT]
        try:
            server = Server(options, folder)
            create_projects(server, projects, wanted.key)
            app = create_app(server)
            context, certificate = own_certificate(wanted.host, folder) if wanted.tls else (None, None)
            listener = stack.enter_context(listening_socket(wanted.host, wanted.port))
        except (ValueError, InvalidError, OSError) as error:
            sys.exit(f"The server cannot start: {error}")
        url = reachable_url("https" if wanted.tls else "http", wanted.host, listener.getsockname()[1])
        environment = environment_of(server, url, projects[0], certificate)
        lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        lines.append(f"{READY} at {url} until Ctrl-C")
        serve(server, app, listener, context, lines, watch_standard_input=wanted.parent_watch == "stdin")


def create_projects(server: Server, qualified_names: list[str], keys: list[str]) -> None:
    if len(keys) > len(qualified_names):
        raise ValueError("There are more keys than projects")
    for qualified_name, key in zip_longest(qualified_names, keys):
        workspace, _, name = qualified_name.partition("/")
        server.store.create_project(server.store.ensure_workspace(workspace), name, key=key)


def serve(
    server: Server,
    app: ASGIApp,
    listener: socket.socket,
    context: ssl.SSLContext | None,
    lines: list[str],
    watch_standard_input: bool,
) -> None:
    """Serve until the end; print the lines when the server answers."""
    config = uvicorn.Config(
        app,
        http=watching(AutoHTTPProtocol, server.connections),
        lifespan="off",
        access_log=False,
        log_level="error",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    config.load()
    # Not through the configuration: it takes files only, and the key is in none.
    config.ssl = context
    web_server = EnvironmentPrintingServer(config, lines)
    if watch_standard_input:
        web_server.watch_standard_input()
    web_server.run(sockets=[listener])


if __name__ == "__main__":
    # Ended by a signal, it still removes its temporary folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt):
        main()
