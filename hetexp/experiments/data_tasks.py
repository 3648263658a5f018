"""The tasks about data: download public data, check public data or one's own."""

from __future__ import annotations

import logging

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from hetexp.data.check import check_dataset
from hetexp.data.download.check import check
from hetexp.data.download.retrieve import download_dataset
from hetexp.data.download.sources import DOWNLOADS
from hetexp.data.registry import get_dataset
from hetexp.errors import ConfigError, DataError
from hetexp.experiments.engine.session import import_plugins

log = logging.getLogger("hetexp")

MOST_LISTED = 50  # problems of a data set that task=check prints


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
