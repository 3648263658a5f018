"""The tasks that need a model or its results: evaluate, explain, samples, merge; and the public data."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hetexp.data.check import check_dataset
from hetexp.data.download.check import check
from hetexp.data.download.retrieve import download_dataset
from hetexp.data.download.sources import DOWNLOADS
from hetexp.data.registry import get_dataset
from hetexp.errors import ConfigError, DataError
from hetexp.evaluation.thresholds.otsu import OTSU
from hetexp.experiments.engine.choices import evaluate_choices
from hetexp.experiments.engine.results import show, tidy, write_results, write_run
from hetexp.experiments.engine.samples import open_image, shown_methods, write_explanations
from hetexp.experiments.engine.session import Session, import_plugins, open_session
from hetexp.experiments.engine.shards import merged_session, write_manifest
from hetexp.experiments.engine.tracking import log_run
from hetexp.experiments.own_inputs import explain_inputs
from hetexp.explanation import Explanation
from hetexp.explanation_files import MaskSettings
from hetexp.reporting.figures.explanation import draw_explanation
from hetexp.reporting.figures.style import save
from hetexp.reporting.samples import StoredExplanation
from hetexp.reporting.words import write_words

log = logging.getLogger("hetexp")

# What a model does -> the package with its experiment: run, samples, and for pictures explain_input.
EXPERIMENTS = {
    "detection": "hetexp.experiments.detection",
    "vqa": "hetexp.experiments.vqa",
    "text": "hetexp.experiments.text",
}
# Kinds of models whose own inputs are whatever they read, not an image with a query or a question.
READERS = ("text", "similarity")
# Options of task=explain that only some models can use.
SOME_USE = {"detection": ("query",), "vqa": ("question",)}
FIGURE_SCALES = (1.0, 0.3)
MOST_LISTED = 50  # problems of a data set that task=check prints


def experiment_of(session: Session) -> Any:
    """The experiment for what the session's model does.

    Raises:
        ConfigError: if there is none.
    """
    if session.kind not in EXPERIMENTS:
        raise ConfigError(
            f"model {session.adapter.name!r} is of the kind {session.kind!r}, and experiments are for "
            f"{' and '.join(EXPERIMENTS)}: explain its inputs in Python with hetexp.explain"
        )
    return import_module(EXPERIMENTS[session.kind])


def evaluate(session: Session) -> None:
    """Run the model's experiment and write `results.csv`, `results.md`, `run.json`."""
    start = time.perf_counter()
    _check_masks(session)
    try:
        results = experiment_of(session).run(session)
    except KeyboardInterrupt as stop:
        if kept := session.kept():
            stop.add_note(kept)
        raise
    session.facts["seconds"] = round(time.perf_counter() - start, 2)
    session.facts["shard"] = session.cfg.shard
    write_run(session.folder, session.facts)
    if session.is_shard:
        write_manifest(session)
        log.info(
            "shard %s is complete: join all with task=merge merge.from=%s", session.cfg.shard, session.folder.parent
        )
        return
    frame = tidy(session, results)
    write_results(session.folder, frame)
    show(frame)
    log_run(session, frame)
    log.info("results are in %s", session.folder)


def make_samples(session: Session) -> None:
    """Explain a handful of items and write `<outputs>/samples/<kind>`, one folder per item."""
    start = time.perf_counter()
    _check_masks(session)
    found: dict[str, Explanation] = experiment_of(session).samples(session)
    if not found:
        raise DataError("no item has anything to explain: check the data, or lower model.score_threshold")
    cfg = session.cfg
    folder = Path(cfg.paths.outputs) / "samples" / session.kind
    about = {
        "model": session.adapter.name,
        "checkpoint": session.checkpoint,
        "data": cfg.data.name,
        "versions": session.facts["versions"],
        "run": str(session.folder),
        "shown": list(shown_methods(session)),
    }
    shown = FIGURE_SCALES if session.strategy.rule.scalable else ()
    write_explanations(folder, found, about, _masks(session, sorted({*shown, *session.scales}, reverse=True)))
    session.facts["seconds"] = round(time.perf_counter() - start, 2)
    write_run(session.folder, session.facts)
    log.info("%d samples are in %s", len(found), folder)


def explain_own(session: Session) -> None:
    """Explain an input of one's own, and save picture, maps and numbers."""
    cfg = session.cfg
    _check_masks(session)
    explained = explain_inputs(session) if session.kind in READERS else _explain_image(session)
    about = {"model": session.adapter.name, "checkpoint": session.checkpoint, "data": "own input"}
    folder = session.folder / "explanation"
    asked = [spec.name for spec in session.methods if spec.name in explained]
    by_level = explained.plot_levels((asked or list(explained))[0]) if cfg.levels else None
    write_explanations(folder, {"input": explained}, about, _masks(session, session.scales))
    stored = StoredExplanation.read(folder / "input")
    paths = save(draw_explanation(stored), folder)
    if stored.info.get("token_texts"):
        paths.append(write_words(stored, folder.with_suffix(".html")))
    if by_level is not None:
        paths += save(by_level, session.folder / "levels")
    write_run(session.folder, session.facts)
    _show_explanation(stored.info)
    log.info("heat maps: %s; numbers: %s", ", ".join(map(str, paths)), folder / "input" / "info.json")


def _masks(session: Session, scales: Sequence[float]) -> MaskSettings:
    """The masks of explanations as the configuration asks for them."""
    given = session.cfg.threshold
    return MaskSettings(scales, given.upsample, given.tie, session.strategy)


def _check_masks(session: Session) -> None:
    """Refuse a strategy for a model of which no masks are made.

    Raises:
        ConfigError: naming it.
    """
    if session.kind != "detection" and session.strategy != OTSU:
        raise ConfigError(
            f"threshold.strategy={session.strategy.name} binarises maps of detectors, and no masks are made of "
            f"{session.adapter.name}: leave it out"
        )


def _explain_image(session: Session) -> Explanation:
    """`image=` explained for `query=` or `question=`."""
    cfg = session.cfg
    if not cfg.image:
        raise ConfigError("task=explain needs an image: image=photo.jpg")
    useless = [
        name
        for name in ("text", "audio", "written", "query", "question")
        if cfg[name] is not None and name not in SOME_USE[session.kind]
    ]
    if useless:
        name = useless[0]
        raise ConfigError(f"{name}={cfg[name]} is nothing that {session.adapter.name} can use: leave it out")
    explained: Explanation = experiment_of(session).explain_input(session, open_image(Path(cfg.image), upright=True))
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


def without_data(cfg: DictConfig) -> DictConfig:
    """The same configuration; explaining an own image needs no data set, so its root may stay unset."""
    if OmegaConf.is_missing(cfg.data, "root"):
        cfg.data.root = ""
    return cfg


def download(cfg: DictConfig) -> None:
    """Fetch every source of the data set; what is there already is left alone."""
    rows = download_dataset(_public(cfg), cfg.data.root, base_url=cfg.data.mirror, progress=cfg.progress)
    table = Table("source", "status", "digest")
    for row in rows:
        table.add_row(row.source, row.status, row.digest or "")
    Console().print(table)


def check_data(cfg: DictConfig) -> None:
    """Report every source of public data, or every item of own data; what is missing or damaged ends with an error."""
    if cfg.data.name not in DOWNLOADS:
        check_own(cfg)
        return
    rows = check(cfg.data.root, [_public(cfg)], deep=True)
    table = Table("item", "expected", "status", "detail", "fix")
    for row in rows:
        table.add_row(row.item, row.expected, row.status, row.detail, row.fix)
    Console().print(table)
    faults = [row.item for row in rows if row.status != "ok"]
    if faults:
        raise DataError(f"not usable as it is: {', '.join(faults)}; the table above says how to fix each")
    if cfg.data.annotations is not None:
        get_dataset(cfg.data.format).open(cfg.data, limit=None, seed=cfg.seed)  # refuses unsound annotations


def check_own(cfg: DictConfig) -> None:
    """Read a data set through and list every problem; any ends with an error."""
    if OmegaConf.is_missing(cfg.data, "root"):
        raise ConfigError("data.root is not set: name the folder of the data, e.g. data.root=/data")
    import_plugins(cfg.plugins)
    report = check_dataset(cfg.data, limit=cfg.limit, seed=cfg.seed)
    for problem in report.problems[:MOST_LISTED]:
        log.warning("%s", problem)
    if report.problems:
        more = f", the first {MOST_LISTED} are listed above" if len(report.problems) > MOST_LISTED else ", listed above"
        raise DataError(f"data={cfg.data.name} is not sound: {len(report.problems)} problem(s){more}; {report.summary}")
    log.info("data=%s is sound: %s", cfg.data.name, report.summary)


def _public(cfg: DictConfig) -> str:
    if cfg.data.name not in DOWNLOADS:
        raise ConfigError(f"data={cfg.data.name} has nothing to download: choose data={' or data='.join(DOWNLOADS)}")
    if OmegaConf.is_missing(cfg.data, "root"):
        raise ConfigError("data.root is not set: name the folder for the data, e.g. data.root=/data")
    return str(cfg.data.name)


def run_evaluate(cfg: DictConfig) -> None:
    """task=evaluate."""
    if cfg.choices:
        evaluate_choices(cfg, Path(HydraConfig.get().runtime.output_dir), evaluate)
    else:
        evaluate(open_session(cfg))


def run_explain(cfg: DictConfig) -> None:
    """task=explain."""
    explain_own(open_session(without_data(cfg)))


def run_samples(cfg: DictConfig) -> None:
    """task=samples."""
    make_samples(open_session(cfg))


def run_merge(cfg: DictConfig) -> None:
    """task=merge."""
    evaluate(merged_session(cfg))
