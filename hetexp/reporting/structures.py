"""Structures of models on disk, as `task=structure` wrote them, and Figure 1 of them."""

from __future__ import annotations

from pathlib import Path

from hetexp.paths import files_named
from hetexp.program import Structure
from hetexp.reporting.commands import MissingInput
from hetexp.reporting.figures.structure import draw_structure
from hetexp.reporting.figures.style import save

TASK = "task=structure"


def newest_structures(outputs: Path) -> list[Structure]:
    """The newest structure of every model below an outputs folder, in the order of the models' names.

    Raises:
        MissingInput: if there is none; the message names the command that makes one.
        DataError: if one is damaged.
    """
    paths = sorted(files_named("structure.json", outputs / "runs"), key=lambda p: (p.stat().st_mtime_ns, str(p)))
    found = [Structure.from_json(path.read_text(encoding="utf-8")) for path in paths]
    if not found:
        raise MissingInput(f"no structure of a model below {outputs}: make one with `python run.py model=detr {TASK}`")
    newest = {structure.model: structure for structure in found}
    return [newest[name] for name in sorted(newest)]


def write_structures(outputs: Path, to: Path) -> list[Path]:
    """Write `figure1.png`, `.pdf` and `.svg`: every model's streams and steps below each other."""
    return save(draw_structure(*newest_structures(outputs)), to / "figure1", ("png", "pdf", "svg"))
