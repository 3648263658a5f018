"""Command line, the same from a checkout (run.py) and when installed (hetexp)."""

from __future__ import annotations

import os
import sys

from hetexp import __version__
from hetexp.garbage import uncollected, unsearched_end
from hetexp.stopping import stoppable

# Threads that wait for each other by spinning slow two runs on one machine down twentyfold; set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> None:
    """Run the task that the command line describes.

    Errors that a user can fix end with a message and exit code 1, Ctrl-C with 130, SIGTERM with 143.
    """
    with unsearched_end(), stoppable():
        if sys.argv[1:] == ["--version"]:
            print(f"hetexp {__version__}")
            return
        with uncollected():
            from hetexp.application import run_command_line  # Hydra takes a while to load: Ctrl-C may come meanwhile

        run_command_line()


if __name__ == "__main__":
    main()
