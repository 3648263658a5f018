"""task=download and task=check: the public data below data.root."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from hetexp.data.check import check
from hetexp.data.download import download_dataset
from hetexp.data.sources import DATASETS
from hetexp.errors import ConfigError, DataError


def _dataset(cfg: DictConfig) -> str:
    if cfg.data.name not in DATASETS:
        raise ConfigError(f"data={cfg.data.name} has nothing to download: choose data={' or data='.join(DATASETS)}")
    if OmegaConf.is_missing(cfg.data, "root"):
        raise ConfigError("data.root is not set: name the folder for the data, e.g. data.root=/data")
    return str(cfg.data.name)


def run_download(cfg: DictConfig) -> None:
    """Fetch every source of the data set; what is there already is left alone."""
    rows = download_dataset(_dataset(cfg), cfg.data.root, base_url=cfg.data.mirror, progress=cfg.progress)
    table = Table("source", "status", "digest")
    for row in rows:
        table.add_row(row.source, row.status, row.digest or "")
    Console().print(table)


def run_check(cfg: DictConfig) -> None:
    """Report every source; anything missing or damaged ends with an error that says how to mend it."""
    rows = check(cfg.data.root, [_dataset(cfg)], deep=True)
    table = Table("item", "expected", "status", "detail", "mend")
    for row in rows:
        table.add_row(row.item, row.expected, row.status, row.detail, row.mend)
    Console().print(table)
    faults = [row.item for row in rows if row.status != "ok"]
    if faults:
        raise DataError(f"not usable as it is: {', '.join(faults)}; the table above says how to mend each")
