"""The tasks that only read results on disk: table, figure, evidence, report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from hetexp.reporting.products import decide, make_figures, make_tables, write_report

log = logging.getLogger("hetexp")


def tables(cfg: DictConfig) -> None:
    """Write the tables of finished runs and print them."""
    results = None if cfg.results is None else Path(cfg.results)
    for made in make_tables(Path(cfg.paths.outputs), _names(cfg.tables), results=results):
        print(made.text)
        log.info("%s: %s (from %s)", made.name, ", ".join(map(str, made.paths)), made.source)


def figures(cfg: DictConfig) -> None:
    """Draw the figures of finished runs and samples."""
    results = None if cfg.results is None else Path(cfg.results)
    contrast = cfg.figure.contrast
    for made in make_figures(Path(cfg.paths.outputs), _names(cfg.figures), results=results, contrast=contrast):
        log.info("%s: %s", made.name, ", ".join(map(str, made.paths)))


def _names(given: Any) -> list[str] | None:
    return None if given is None else [str(name) for name in given]


def evidence(cfg: DictConfig) -> None:
    """Decide the paper's claims, or those of `claims=`, from finished runs."""
    made = decide(Path(cfg.paths.outputs), claims=None if cfg.claims is None else Path(cfg.claims))
    print(made.text)
    log.info("%s: %s", made.name, ", ".join(map(str, made.paths)))


def report(cfg: DictConfig) -> None:
    """Write the report, one HTML file that needs no network."""
    path = write_report(Path(cfg.paths.outputs), partial=cfg.report.partial)
    log.info("report: %s (%.1f MiB)", path, path.stat().st_size / 2**20)
