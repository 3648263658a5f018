"""What a small checkpoint of a detector must be good for by its folder alone: tables, and a photograph explained."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from PIL import Image

from hetexp.config import composed, without_data
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.explain_own import explain_own
from hetexp.experiments.tasks import evaluate
from hetexp.paths import asset

METHODS = ("gae", "odam", "ours_abs", "ours_noised")


def category_names() -> list[str]:
    """The classes of the embedded scenes, in the order of their annotation file."""
    annotations = json.loads(Path(asset("scenes/val/annotations.json")).read_text(encoding="utf-8"))
    return [c["name"] for c in annotations["categories"]]


def check_tables(checkpoint: Path, tmp_path: Path, *overrides: str) -> None:
    """Evaluate two scenes: every method has its scores."""
    cfg = composed(
        "model=auto",
        f"model.checkpoint={checkpoint}",
        f"methods=[{','.join(METHODS)}]",
        "limit=2",
        "progress=false",
        f"paths.outputs={tmp_path / 'outputs'}",
        *overrides,
    )
    evaluate(open_session(cfg, tmp_path / "run"))
    frame = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(frame["method"]) == set(METHODS)
    assert frame[frame["metric"] == "AR"]["value"].notna().all()


def check_photograph(checkpoint: Path, tmp_path: Path, *overrides: str) -> None:
    """Explain a query of a photograph: numbers and pictures are written."""
    photograph = tmp_path / "photo.png"
    Image.new("RGB", (120, 100), "teal").save(photograph)
    cfg = composed(
        "task=explain",
        "model=auto",
        f"model.checkpoint={checkpoint}",
        f"image={photograph}",
        "query=3",
        "methods=[ours_abs,gae]",
        f"paths.outputs={tmp_path / 'outputs'}",
        *overrides,
    )
    explain_own(open_session(without_data(cfg), tmp_path / "run"))
    assert [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".npz", ".png")]
