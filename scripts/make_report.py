"""Write the report, one HTML file that needs no network: python scripts/make_report.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hetexp.errors import HetexpError
from hetexp.reporting.report import write_report


def main(arguments: list[str] | None = None) -> int:
    """Write outputs/report/index.html; 1 if a part is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of the runs (default: outputs)")
    parser.add_argument("--to", type=Path, help="file to write (default: <outputs>/report/index.html)")
    parser.add_argument("--partial", action="store_true", help="leave out what is missing and say so on the page")
    options = parser.parse_args(arguments)
    try:
        path = write_report(options.outputs, options.to or options.outputs / "report" / "index.html", options.partial)
    except HetexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"report: {path} ({path.stat().st_size / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
