"""Public data to the data root: fetched, verified, unpacked as released, and never done twice."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from hetexp.data.download.archive import DamagedArchive, extract
from hetexp.data.download.fetch import OnProgress, RetryPolicy, discard, fetch, kept_bytes, require_space, verify
from hetexp.data.download.receipts import WORK, missing_files, read_receipt, write_receipt
from hetexp.data.download.sources import DOWNLOADS, SOURCES, Source
from hetexp.data.vqa import from_vqa_v2, write_questions
from hetexp.errors import ConfigError, DownloadError
from hetexp.files import atomic_file, file_hash

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Download:
    """What became of one source.

    Attributes:
        source: its name.
        status: downloaded, present or built.
        digest: ``algorithm:hex`` of the fetched file; None for data that the user brought.
    """

    source: str
    status: str
    digest: str | None = None


def download_source(
    source_name: str,
    root: str | Path,
    base_url: str | None = None,
    sources: Mapping[str, Source] = SOURCES,
    retry: RetryPolicy | None = None,
    progress: bool = True,
) -> Download:
    """Bring one source below `root`, laid out as released; nothing is done if it is there already.

    An interrupted download or extraction continues where it stopped.

    Args:
        source_name: key of `sources`.
        root: the data root.
        base_url: a mirror's address, in place of everything before the file's name.
        sources: what is known of each source.
        retry: when to give up.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: for an unknown source.
        DownloadError: if it cannot be fetched, verified or unpacked; whatever was there before is left alone.
    """
    source = _look_up(source_name, sources, "source")
    root = Path(root)
    if base_url is not None:
        source = replace(source, url=f"{base_url.rstrip('/')}/{source.file_name}")
    receipt = read_receipt(root, source)
    if receipt is not None and not missing_files(root, receipt["files"]):
        return Download(source.name, "present", receipt.get("digest"))
    if receipt is None and not _lacking(root, source):
        return Download(source.name, "present")
    work = root / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"{root} cannot be written: {error.strerror}: choose another data.root") from error
    fetched = work / source.file_name
    if not fetched.exists():
        if source.size is not None:
            require_space(work, source.size - kept_bytes(fetched), source.url)
        with _reporting(source, progress) as on_progress:
            fetch(source.url, fetched, retry, on_progress)
    digest = verify(fetched, source.digest, source.url)
    if source.is_archive:
        try:
            files = extract(fetched, root, source.products)
        except DamagedArchive:
            discard(fetched)
            raise
    else:
        files = _move(fetched, root, source)
    write_receipt(root, source, digest, files)
    discard(fetched)
    return Download(source.name, "downloaded", digest)


def download_dataset(
    name: str,
    root: str | Path,
    base_url: str | None = None,
    sources: Mapping[str, Source] = SOURCES,
    retry: RetryPolicy | None = None,
    progress: bool = True,
) -> list[Download]:
    """Bring all sources of a data set; if LXMERT's host fails, `valid.json` is built from VQA v2's official files.

    Args:
        name: key of DOWNLOADS.
        root: the data root.
        base_url: a mirror's address, in place of everything before a file's name.
        sources: what is known of each source.
        retry: when to give up.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: for an unknown data set.
        DownloadError: if a source cannot be fetched, verified or unpacked; those before it stay.
    """
    done = []
    for source_name in _look_up(name, DOWNLOADS, "data set"):
        try:
            done.append(download_source(source_name, root, base_url, sources, retry, progress))
        except DownloadError as error:
            if source_name != "lxmert_valid":
                raise
            log.warning("%s; building valid.json from VQA v2's files instead", error)
            done.append(build_valid(root, sources))
    return done


def build_valid(root: str | Path, sources: Mapping[str, Source] = SOURCES) -> Download:
    """Write vqa/valid.json from the official question and annotation files below `root`."""
    root = Path(root)
    asked, annotated, target = (
        root / sources[name].products[0].folder / sources[name].products[0].pattern
        for name in ("vqa_v2_questions", "vqa_v2_annotations", "lxmert_valid")
    )
    write_questions(from_vqa_v2(asked, annotated), target)
    digest = f"sha256:{file_hash(target)}"
    files = {str(target.relative_to(root)): target.stat().st_size}
    write_receipt(root, sources["lxmert_valid"], digest, files, built_from=[asked.name, annotated.name])
    return Download("lxmert_valid", "built", digest)


def _look_up(name: str, table: Mapping[str, Any], kind: str) -> Any:
    if name not in table:
        raise ConfigError(f"unknown {kind} '{name}'. Available: {', '.join(table)}")
    return table[name]


def _lacking(root: Path, source: Source) -> bool:
    """Whether files of the source lack below the root, judged by their number (data that the user brought)."""
    return any(
        sum(1 for file in (root / product.folder).glob(product.pattern) if file.stat().st_size) < product.count
        for product in source.products
    )


def _move(fetched: Path, root: Path, source: Source) -> dict[str, int]:
    (product,) = source.products
    if fetched.suffix == ".json":
        try:
            json.loads(fetched.read_bytes())
        except ValueError as error:
            discard(fetched)
            raise DownloadError(f"{source.url} sent no valid JSON ({error}): run the same command again") from error
    target = root / product.folder / product.pattern
    try:
        with atomic_file(target) as temporary:
            shutil.move(fetched, temporary)  # the product's folder may be a link to another disk
    except OSError as error:
        raise DownloadError(
            f"{target} cannot be written: {error.strerror or error}. Free space or choose another data.root and run "
            "the same command again, what was fetched is kept"
        ) from error
    return {f"{product.folder}/{product.pattern}": target.stat().st_size}


@contextmanager
def _reporting(source: Source, shown: bool) -> Iterator[OnProgress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not shown) as bar:
        task = bar.add_task(source.about, total=source.size)
        yield lambda held, total: bar.update(task, completed=held, total=total)
