"""Copy a model registry from beginning to end, on a small Neptune server that this starts on your machine.

It takes about half a minute, needs no account, and leaves nothing behind. You answer two questions with Enter, and look
at the runs in a browser until you end it. Without a terminal, flags answer the questions, and it ends by itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# `tests` is imported as a package from the repository's root, wherever the demo is started from.
sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> int:
    """Say something before the imports, which take some seconds."""
    argparse.ArgumentParser(prog="python tests/demo.py", description=__doc__).parse_args()
    print("This starts a small Neptune server and fills a model registry: some seconds.", flush=True)
    from tests.support.demo import show

    return show()


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # nobody reads it any more, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
