"""What of the public data is there, missing or damaged, and how to fix it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hetexp.data.download.receipts import missing_files, read_receipt
from hetexp.data.download.sources import DOWNLOADS, SOURCES, Product, Source


@dataclass(frozen=True)
class CheckRow:
    """One line of the report.

    Attributes:
        item: name of the source.
        expected: which files belong to it.
        status: ok, missing or damaged.
        detail: what was found.
        fix: what to do about it; empty if it is ok.
    """

    item: str
    expected: str
    status: str
    detail: str
    fix: str


def check(
    root: str | Path, datasets: Iterable[str] | None = None, sources: Mapping[str, Source] = SOURCES, deep: bool = False
) -> list[CheckRow]:
    """Look at the data below a folder; nothing is changed.

    Files are compared with what was recorded at download, and otherwise counted; JSON is parsed.

    Args:
        root: the data root.
        datasets: keys of DOWNLOADS; None for all.
        sources: what is known of each source.
        deep: whether to decode every image too.

    Returns:
        One row per source.
    """
    names = [name for dataset in (DOWNLOADS if datasets is None else datasets) for name in DOWNLOADS[dataset]]
    return [_check_source(Path(root), sources[name], _dataset_of(name), deep) for name in names]


def _dataset_of(source: str) -> str:
    return next(dataset for dataset, members in DOWNLOADS.items() if source in members)


def _check_source(root: Path, source: Source, dataset: str, deep: bool) -> CheckRow:
    expected = "; ".join(
        f"{p.folder}/{p.pattern}" + (f" ({p.count:,} files)" if p.count > 1 else "") for p in source.products
    )
    again = f"python run.py task=download data={dataset} data.root={root}, or put the files there yourself"
    found = [file for product in source.products for file in _files(root, product)]
    wanted = sum(product.count for product in source.products)
    if not found:
        return CheckRow(source.name, expected, "missing", "nothing there", again)
    receipt = read_receipt(root, source)
    differing = missing_files(root, receipt["files"]) if receipt else []
    if differing:
        gone = [name for name in differing if not (root / name).is_file()]
        detail = (
            f"{len(gone)} missing, {len(differing) - len(gone)} of another size than recorded, first {differing[0]}"
        )
        return CheckRow(source.name, expected, "missing" if len(gone) == len(differing) else "damaged", detail, again)
    if len(found) < wanted:
        return CheckRow(source.name, expected, "missing", f"{len(found):,} of {wanted:,} files", again)
    for file in found:
        reason = _damage(file, deep)
        if reason:
            fix = f"remove {file.relative_to(root)}, then {again}"
            return CheckRow(source.name, expected, "damaged", f"{file.relative_to(root)}: {reason}", fix)
    size = sum(file.stat().st_size for file in found)
    origin = f"recorded {receipt['digest']}" if receipt else "not downloaded by this program, hash unknown"
    return CheckRow(source.name, expected, "ok", f"{len(found):,} file(s), {size / 1e6:,.1f} MB, {origin}", "")


def _files(root: Path, product: Product) -> list[Path]:
    return sorted(file for file in (root / product.folder).glob(product.pattern) if file.is_file())


def _damage(file: Path, deep: bool) -> str:
    if file.stat().st_size == 0:
        return "is empty"
    if file.suffix == ".json":
        try:
            json.loads(file.read_bytes())
        except ValueError as error:
            return f"is not valid JSON ({error})"
    if deep and file.suffix == ".jpg":
        try:
            with Image.open(file) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            return f"cannot be decoded ({error})"
    return ""
