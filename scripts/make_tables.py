"""Write the paper's tables from finished runs: python scripts/make_tables.py 1 2 figure6."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hetexp.errors import HetexpError
from hetexp.reporting import perturbation, tables
from hetexp.reporting.runs import newest_run, read_run


def main(arguments: list[str] | None = None) -> int:
    """Write outputs/tables/table1.* and so on; 1 if a run is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", choices=["1", "2", "figure6"], help="which tables to write")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of the runs (default: outputs)")
    parser.add_argument("--results", type=Path, help="results.csv or run folder to use instead of the newest run")
    parser.add_argument("--to", type=Path, help="folder to write to (default: <outputs>/tables)")
    options = parser.parse_args(arguments)
    folder = options.to or options.outputs / "tables"
    try:
        for name in options.tables:
            experiment = name if name == "figure6" else f"table{name}"
            run = read_run(options.results) if options.results else newest_run(options.outputs, experiment)
            if name == "figure6":
                paths, text = perturbation.write_table(run, folder)
            else:
                table = tables.compare(run, int(name))
                paths, text = tables.write_table(table, folder), tables.to_markdown(table)
            print(text)
            print("written:", ", ".join(str(p) for p in paths), f"(from {run.folder})")
    except HetexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
