"""Copy the tables and figures under outputs/ to outputs/reference, and show its tables in README and docs/results.md.

make reference
"""

from __future__ import annotations

import csv
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"tables": ("*.csv", "*.md", "*.tex"), "figures": ("*.png", "*.pdf", "*.csv"), "report": ("*.html",)}
# Figures in another contrast that outputs/reference holds; those of the others would double its size.
VARIANTS = (".*_(shared|log)", "figure2_(shared|log)")
BEGIN, END = "<!-- tables -->", "<!-- /tables -->"
PUBLISHED = "†"  # marks the paper's own columns of a table
CONTROL = " (control)"  # marks those of maps without attribution
ENDS = (" low", " high")  # of the columns with the ends of an interval
# Tables that `make all` does not make, shown where they were made.
FURTHER = (
    *("figure6_models", "detectors", "unit_free", "unit_free_vqa", "deciding_tokens", "text_perturbation", "deletion"),
    *("leaderboard", "leaderboard_costs"),
)
SCALES = {1: "Otsu's threshold (Table 1)", 2: "0.3 times the threshold (Table 2)"}


def measured_ap(reference: Path) -> str:
    """README's table: the measured AP of Tables 1 and 2."""
    lines: list[list[str]] = []
    for number, threshold in SCALES.items():
        with (reference / "tables" / f"table{number}.csv").open(encoding="utf-8", newline="") as file:
            ap = next(row for row in csv.DictReader(file) if row["metric"] == "AP")
        own = {
            name: f"{value} [{', '.join(ap[name + end] for end in ENDS)}]"
            for name, value in ap.items()
            if name != "metric" and PUBLISHED not in name and not name.endswith((*ENDS, CONTROL))
        }
        if not lines:
            lines = [["AP, %", *own], ["---", *["---:"] * len(own)]]
        lines.append([threshold, *own.values()])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def all_tables(reference: Path) -> str:
    """The tables of docs/results.md, as they lie in outputs/reference."""
    names = ["claims", "table1", "table2", "table3", "table4", "figure6"]
    names += [name for name in FURTHER if (reference / "tables" / f"{name}.md").is_file()]
    parts = [(reference / "tables" / f"{name}.md").read_text(encoding="utf-8") for name in names]
    return "\n\n".join(part.strip() for part in parts)


# Where tables are shown between marks -> what stands there.
SHOWN = {"README.md": measured_ap, "docs/results.md": all_tables}


def replaced(page: str, block: str) -> str:
    """A page with the text between its marks replaced.

    Raises:
        ValueError: for a page without marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def is_kept(name: str) -> bool:
    """Whether outputs/reference holds a file of that name."""
    every, kept = VARIANTS
    return not re.fullmatch(every, name) or bool(re.fullmatch(kept, name))


def main() -> int:
    """Refresh outputs/reference and the pages; 1 if something is missing."""
    outputs, reference = ROOT / "outputs", ROOT / "outputs" / "reference"
    for folder, patterns in KINDS.items():
        found = [p for pattern in patterns for p in sorted((outputs / folder).glob(pattern)) if is_kept(p.stem)]
        if not found:
            print(f"error: nothing in {outputs / folder}: run `make all` first", file=sys.stderr)
            return 1
        (reference / folder).mkdir(parents=True, exist_ok=True)
        for path in found:
            shutil.copy2(path, reference / folder / path.name)
    for name, tables in SHOWN.items():
        page = ROOT / name
        page.write_text(replaced(page.read_text(encoding="utf-8"), tables(reference)), encoding="utf-8")
    print(f"refreshed {reference}, {' and '.join(SHOWN)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
