"""Copy the tables and figures under outputs/ to outputs/reference, and show its Table 1 and 2 in README.

make reference
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"tables": ("*.csv", "*.md", "*.tex"), "figures": ("*.png", "*.pdf", "*.csv"), "report": ("index.html",)}
BEGIN, END = "<!-- tables -->", "<!-- /tables -->"


def shown(reference: Path) -> str:
    """What README shows between its marks: the two tables as they lie in outputs/reference."""
    parts = [(reference / "tables" / f"table{n}.md").read_text(encoding="utf-8").strip() for n in (1, 2)]
    return f"{BEGIN}\n" + "\n\n".join(parts) + f"\n{END}"


def replaced(readme: str, block: str) -> str:
    """README with the text between the marks replaced."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + block + after


def main() -> int:
    """Refresh outputs/reference; 1 if something is missing."""
    outputs, reference = ROOT / "outputs", ROOT / "outputs" / "reference"
    for folder, patterns in KINDS.items():
        found = [p for pattern in patterns for p in sorted((outputs / folder).glob(pattern))]
        if not found:
            print(f"error: nothing in {outputs / folder}: run `make all` first", file=sys.stderr)
            return 1
        (reference / folder).mkdir(parents=True, exist_ok=True)
        for path in found:
            shutil.copy2(path, reference / folder / path.name)
    readme = ROOT / "README.md"
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), shown(reference)), encoding="utf-8")
    print(f"refreshed {reference} and {readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
