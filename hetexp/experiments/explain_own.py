"""An input of one's own explained by a session's model: picture, maps, masks and numbers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hetexp.experiments.asked import asked_picture, check_options
from hetexp.experiments.engine.samples import mask_settings, write_explanations
from hetexp.experiments.engine.session import Session, open_session, write_run
from hetexp.experiments.experiment import experiment_of
from hetexp.explanation import Explanation
from hetexp.paths import import_from
from hetexp.reporting.figures.explanation import draw_explanation
from hetexp.reporting.figures.style import save
from hetexp.reporting.words import write_words

log = logging.getLogger("hetexp")


# Kinds of models whose own inputs are whatever they read, not an image with a query or a question.
READERS = ("text", "similarity")


def run(cfg: DictConfig, picture: Image.Image | None) -> None:
    """task=explain of a checked configuration and the picture that it names."""
    explain_own(open_session(cfg), picture)


def explain_own(session: Session, picture: Image.Image | None = None) -> None:
    """Explain an input of one's own, and save picture, maps and numbers.

    Args:
        session: of the run.
        picture: what `image=` names, where a model that explains pictures has had it opened.
    """
    cfg = session.cfg
    session.check_masks()
    if session.kind in READERS:
        explained: Explanation = import_from("hetexp.experiments.own_inputs:explain_inputs")(session)
    else:
        explained = _explain_image(session, picture)
    about = {"model": session.adapter.name, "checkpoint": session.checkpoint, "data": "own input"}
    folder = session.folder / "explanation"
    asked = [spec.name for spec in session.methods if spec.name in explained]
    by_level = explained.plot_levels((asked or list(explained))[0]) if cfg.levels else None
    write_explanations(folder, {"input": explained}, about, mask_settings(session, session.scales))
    stored = explained.stored()  # what lies in the folder, without the way there
    paths = save(draw_explanation(stored), folder)
    if stored.info.get("token_texts"):
        paths.append(write_words(stored, folder.with_suffix(".html")))
    if by_level is not None:
        paths += save(by_level, session.folder / "levels")
    write_run(session.folder, session.facts)
    _show_explanation(stored.info)
    log.info("heat maps: %s; numbers: %s", ", ".join(map(str, paths)), folder / "input" / "info.json")


def _explain_image(session: Session, picture: Image.Image | None) -> Explanation:
    """`image=` explained for `query=` or `question=`."""
    cfg = session.cfg
    experiment = experiment_of(session)
    check_options(cfg, session.adapter.name, session.kind)
    assert experiment.explain_input is not None  # of what is no reader
    opened = asked_picture(cfg) if picture is None else picture
    explained: Explanation = import_from(experiment.explain_input)(session, opened)
    explained.details["item"] = Path(cfg.image).name
    return explained


def _show_explanation(info: Any) -> None:
    """Print the numbers behind the picture."""
    table = Table()
    if info["kind"] in READERS:
        for heading in ("explained", "y", "p"):
            table.add_column(heading, justify="right" if heading == "p" else "left")
        for name, row in zip(info["explained"], info["rows"], strict=True):
            table.add_row(escape(name), escape(row["target"]), f"{row['score']:.3f}")
    elif info["kind"] == "detection":
        for heading in ("class", "p", "query", "box (x1, y1, x2, y2)", "y"):
            table.add_column(heading, justify="left" if heading in ("class", "y") else "right")
        for found, target in zip(info["detections"], info["targets"], strict=True):
            box = ", ".join(f"{v:.0f}" for v in found["box"])
            table.add_row(found["label"], f"{found['score']:.3f}", str(found["query"]), box, target)
    else:
        for heading in ("answer", "logit", "p"):
            table.add_column(heading, justify="left" if heading == "answer" else "right")
        for found in info["answers"]:
            table.add_row(found["answer"], f"{found['logit']:.2f}", f"{found['probability']:.3f}")
    console = Console()
    console.print(table)
    if info["kind"] == "vqa":
        console.print("explained: " + ", ".join(row["target"] for row in info["rows"]), markup=False)
