"""The tasks that measure: evaluate, samples, merge."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from hetexp.errors import DataError
from hetexp.experiments.engine.choices import evaluate_choices
from hetexp.experiments.engine.results import show, tidy, write_results
from hetexp.experiments.engine.samples import mask_settings, shown_methods, write_explanations
from hetexp.experiments.engine.session import Session, open_session, write_run
from hetexp.experiments.engine.shards import merged_session, write_manifest
from hetexp.experiments.engine.tracking import log_run
from hetexp.experiments.experiment import experiment_of
from hetexp.explanation import Explanation
from hetexp.paths import import_from

log = logging.getLogger("hetexp")

FIGURE_SCALES = (1.0, 0.3)


def evaluate(session: Session) -> None:
    """Run the model's experiment and write `results.csv`, `results.md`, `run.json`."""
    start = time.perf_counter()
    session.check_masks()
    try:
        results = import_from(experiment_of(session).run)(session)
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
    session.check_masks()
    found: dict[str, Explanation] = import_from(experiment_of(session).samples)(session)
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
    write_explanations(folder, found, about, mask_settings(session, sorted({*shown, *session.scales}, reverse=True)))
    session.facts["seconds"] = round(time.perf_counter() - start, 2)
    write_run(session.folder, session.facts)
    log.info("%d samples are in %s", len(found), folder)


def run_evaluate(cfg: DictConfig) -> None:
    """task=evaluate."""
    if cfg.choices:
        evaluate_choices(cfg, Path(HydraConfig.get().runtime.output_dir), evaluate)
    else:
        evaluate(open_session(cfg))


def run_samples(cfg: DictConfig) -> None:
    """task=samples."""
    make_samples(open_session(cfg))


def run_merge(cfg: DictConfig) -> None:
    """task=merge."""
    evaluate(merged_session(cfg))
