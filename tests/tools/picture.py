"""`python tests/tools/picture.py` takes README's picture: the demo's runs as the local server shows them."""

from __future__ import annotations

import io
import logging
import sys
import tempfile
import warnings
from pathlib import Path

# `tests` is imported as a package from the repository's root, wherever the program is started from.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from PIL import Image

from tests.neptune_server.process import ServerProcess
from tests.support.browser import opened_browser, reason_against
from tests.support.registry import fill_demo
from tests.support.script import run_script

PROJECT, KEY = "acme/credit-risk", "CR"
PICTURE = Path(__file__).parents[1] / "runs.png"
COLUMNS = "?metric=val/best_auc&metric=train/loss"
WIDTH, HEIGHT = 1160, 100
SHARPNESS = 1.25
COLOURS = 32


def main() -> int:
    if reason_against():
        sys.exit(reason_against())
    logging.getLogger("neptune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with ServerProcess("--project", PROJECT, "--key", KEY) as server, tempfile.TemporaryDirectory() as folder:
        fill_demo(server, PROJECT)
        session = run_script(server, "--project", PROJECT, "--workers", "1", cwd=Path(folder))
        if session.status:
            sys.exit(session.output)
        taken = screenshot(f"{server.url}/{PROJECT}/{COLUMNS}")
    PICTURE.write_bytes(reduced(taken))
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")
    return 0


def screenshot(url: str) -> bytes:
    """As high as the page is."""
    with opened_browser() as browser:
        page = browser.new_page(
            color_scheme="light", viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SHARPNESS
        )
        page.goto(url)
        return page.screenshot(full_page=True)


def reduced(png: bytes) -> bytes:
    """The same picture in few colours, which is all that a table has."""
    stream = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


if __name__ == "__main__":
    sys.exit(main())
