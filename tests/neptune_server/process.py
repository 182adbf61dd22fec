"""The server as tests use it: in a process of its own, with its instruments as methods."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

REPOSITORY = Path(__file__).parents[2]
READY = "# Serving at "
STOP_SECONDS = 10
ANSWER_SECONDS = 300


class Instruments:
    """What tests may see and do that no client can."""

    def __init__(self, url: str, certificate: Path | None = None) -> None:
        self._url = f"{url}/_instruments"
        self._session = requests.Session()
        self._session.trust_env = False
        if certificate is not None:
            self._session.verify = str(certificate)

    def _call(self, method: str, path: str, content: Any = None, **parameters: str) -> Any:
        response = self._session.request(
            method, f"{self._url}/{path}", json=content, params=parameters, timeout=ANSWER_SECONDS
        )
        if not response.ok:
            raise RuntimeError(f"{method} {path}: {response.status_code} {response.text}")
        return response.json()

    def state(self, project: str) -> dict[str, Any]:
        """Everything that a project holds, as plain data."""
        found: dict[str, Any] = self._call("GET", "state", project=project)
        return found

    def counts(self) -> dict[str, Any]:
        """`requests`, `bytes_in` and `bytes_out` by operation; `max_concurrent` requests; `connections` seen."""
        found: dict[str, Any] = self._call("GET", "counts")
        return found

    def reset_counts(self) -> None:
        self._call("POST", "counts/reset")

    def log(self) -> list[tuple[int, str, int | None, str | None]]:
        """The requests since the counts were reset: number, operation, status, container."""
        return [
            (number, operation, status, container) for number, operation, status, container in self._call("GET", "log")
        ]

    def fault(
        self,
        operation: str,
        kind: str,
        *,
        status: int = 503,
        headers: dict[str, str] | None = None,
        body: Any = None,
        after: int = 0,
        times: int | None = 1,
        path: str | None = None,
        seconds: float = 0.0,
        bytes: int = 0,
        requests: int = 0,
    ) -> int:
        """Orders a fault for one operation (or `*`): the next `times` requests (None: all) but the first `after`.
        Its number is for `release`.

        `kind` is one of `status` (with `status`, `headers` and `body`), `reset`, `truncate` (`seconds` after `bytes` of
        the answer), `delay` (by `seconds`), `operation_error` (`body` being its words), `lost_answer` (carried out,
        then reset), `reset_body` (when `bytes` of the request's body have come), `late` (reset, and carried out later)
        and `repeated_late` (carried out, reset, and carried out again later). `path` leaves out requests that do not
        mention that field.

        A late request lets so many `requests` about the same object pass, and arrives just before the next one. Where
        it names no object, others that name none count. It is unchanged: if its token has expired, it is refused.
        """
        description = {
            "operation": operation,
            "kind": kind,
            "status": status,
            "headers": headers or {},
            "body": body,
            "after": after,
            "times": times,
            "path": path,
            "seconds": seconds,
            "bytes": bytes,
            "requests": requests,
        }
        number: int = self._call("POST", "faults", description)["number"]
        return number

    def clear_faults(self) -> None:
        """Takes back all faults, limits and omissions, and ends an outage. Late requests that have not arrived never
        will."""
        self._call("DELETE", "faults")

    def leave_out(self, operation: str, part: str) -> None:
        """Leave a part out of an operation's answers: the keys that lead to it, with dots between them. `*` is any key;
        of a list, it is left out of each item. `entries.attributes.type` concerns each field of each row of a table."""
        self._call("POST", "omissions", {"operation": operation, "part": part})

    def limit(self, *, bytes: int | None = None, operations: int | None = None, status: int = 402) -> None:
        """Let so many bytes be uploaded, and so many operations be executed, from now on. Every request that goes
        beyond is refused as a whole with the status, 402 or 422; with nothing left, all are. None: no limit."""
        self._call("POST", "limits", {"bytes": bytes, "operations": operations, "status": status})

    def release(self, fault: int) -> None:
        """End the delays of a fault: what it has held up is carried out now."""
        self._call("POST", "faults/release", {"number": fault})

    def late(self) -> list[dict[str, Any]]:
        """List the late requests since the faults were cleared, in their order. Each has its `operation`, how many
        `requests` it still lets pass, and the `status` of its answer, which is None until it has arrived."""
        found: list[dict[str, Any]] = self._call("GET", "late")
        return found

    def arrive(self) -> int:
        """Make the late requests arrive that are still on their way; return their number."""
        arrived: int = self._call("POST", "late")["arrived"]
        return arrived

    def set_attribute(self, project: str, container: str, path: str, attribute: dict[str, Any] | None) -> None:
        """Places a field as if the server itself had; None takes it away. The form is that of `state`, but bytes are
        given as base64: `content` of a file and of an image, and the values of a file set's `files`."""
        wanted: dict[str, Any] = {"project": project, "container": container, "path": path}
        wanted.update({"remove": True} if attribute is None else {"attribute": attribute})
        self._call("POST", "attributes", wanted)

    def lose_bytes(self, project: str, container: str, path: str) -> None:
        """Lose the bytes of a file, of all files of a set or of all images of a series: from now on they are not found,
        though the field is listed as before. What is uploaded there later is another file."""
        self._call("POST", "lost-bytes", {"project": project, "container": container, "path": path})

    def add_artifact(self, project: str, artifact_hash: str, files: list[dict[str, Any]]) -> None:
        """Registers an artifact version whatever its hash; `files` have the form of the wire."""
        self._call("POST", "artifacts", {"project": project, "hash": artifact_hash, "files": files})

    def create_project(self, project: str) -> None:
        self._call("POST", "projects", {"project": project})

    def set_project(self, project: str, *, role: str = "manager", archived: bool = False) -> None:
        """Set the role of the token's user (`viewer`, `member`, `manager`), and whether the project is archived. Who
        views only writes nothing, and nobody writes to an archived project: the server answers 403."""
        self._call("PATCH", "projects", {"project": project, "role": role, "archived": archived})

    def expire_tokens(self) -> None:
        """All access tokens issued so far count as expired, whatever they say themselves. A client in this very process
        does not believe it, and tries its token again for a minute: not for a server that other tests go on using."""
        self._call("POST", "expire-tokens")

    def outage(self, seconds: float, kind: str = "status") -> None:
        """Every request fails for a while, with 503 (`status`) or a broken connection (`reset`)."""
        self._call("POST", "outage", {"seconds": seconds, "kind": kind})

    def catch_up(self) -> None:
        """Have searches, which may lag behind, see all as it is now: a script that is begun earlier cannot know."""
        self._call("POST", "index")


class ServerProcess:
    """`with ServerProcess("--token-ttl", "30") as server: ...`

    With `--tls`, `url` is one of https, and `certificate` the file of the authority that a client has to trust. The
    `environment` makes it do so by `REQUESTS_CA_BUNDLE`.
    """

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self.environment: dict[str, str] = {}
        self.url = ""
        self.certificate: Path | None = None
        self.instruments: Instruments

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Comes back when the server answers."""
        # The folder for uploads is not the server's own: it is to be removed even if the server is killed.
        self._folder = tempfile.TemporaryDirectory(prefix="neptune-server-")
        options = ["--parent-watch", "stdin", "--data", self._folder.name, *self._arguments]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.neptune_server", *options],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONUTF8": "1"},
            # Ctrl-C is meant for the program in front of the person, which the server has to survive.
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        try:
            self._read_environment(self._process)
        except BaseException:
            self.kill()
            raise
        self.certificate = Path(self.environment["REQUESTS_CA_BUNDLE"]) if "--tls" in self._arguments else None
        self.instruments = Instruments(self.url, self.certificate)

    def _read_environment(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(READY):
                self.url = line[len(READY) :].split()[0]
                return
            (definition,) = shlex.split(line)[1:]
            name, _, value = definition.partition("=")
            self.environment[name] = value
        raise RuntimeError(f"The server did not start: it ended with status {process.wait()}")

    def stop(self) -> None:
        """Ends the server in good order."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close()

    def _close(self) -> None:
        assert self._process is not None
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                stream.close()
        self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
