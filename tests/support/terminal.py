"""A person at a terminal: what is typed, and what the screen shows. Windows has terminals of another kind."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pexpect
import pyte

COLUMNS, LINES = 100, 60
KEYS = {"enter": "\r", "end of input": "\x04", "interrupt": "\x03"}


class Terminal:
    """`with Terminal(command, cwd, environment) as terminal: ...`"""

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        columns: int = COLUMNS,
        rows: int = LINES,
    ) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.received = b""
        self._process: pexpect.spawn[bytes] = pexpect.spawn(
            command[0],
            list(command[1:]),
            cwd=str(cwd),
            env={**environment, "TERM": "xterm"},
            dimensions=(rows, columns),
            timeout=90,
        )
        self._process.delaybeforesend = None
        self._process.logfile_read = self

    def write(self, received: bytes) -> None:
        self.received += received
        self._stream.feed(received)

    def flush(self) -> None:
        """Part of what a file for logging must have."""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close(force=True)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen now, without the empty lines at its end."""
        shown = [line.rstrip() for line in self._screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str) -> None:
        """Comes back when a text has come that was not waited for before."""
        self._process.expect_exact(text.encode())

    def type(self, text: str = "", key: str = "enter") -> None:
        # A person takes a moment, and Python forgets an interrupt between the question and the call that reads.
        self._process.delaybeforesend = 0.1 if key == "interrupt" else None
        self._process.send(os.fsencode(text + KEYS[key]))

    def answer(self, question: str, text: str = "", key: str = "enter") -> None:
        self.wait_for(question)
        self.type(text, key)

    def end(self) -> int:
        """Waits until the program has ended; its exit status."""
        self._process.expect(pexpect.EOF)
        self._process.wait()
        assert self._process.exitstatus is not None
        return self._process.exitstatus
