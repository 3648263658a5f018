"""Safe extraction of zip archives: only wanted files, each whole or not at all, nothing outside its folder."""

from __future__ import annotations

import fnmatch
import shutil
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from hetexp.data.download.fetch import require_space
from hetexp.data.download.sources import Product
from hetexp.errors import DownloadError
from hetexp.files import atomic_file


class DamagedArchive(DownloadError):
    """The archive cannot be used and should be fetched again."""


def extract(archive: Path, root: Path, products: Iterable[Product]) -> dict[str, int]:
    """Extract the products of an archive below `root`; a file that is there with the right size stays.

    Returns:
        Size in bytes of every product's file, by its path relative to `root`.

    Raises:
        DamagedArchive: if the archive is damaged or lacks a product.
        DownloadError: if it holds links, encrypted files or paths that leave the folder, or the disk is full.
    """
    try:
        with ZipFile(archive) as opened:
            _refuse_unsafe(archive, opened.infolist())
            wanted = _choose(archive, opened.infolist(), products)
            waiting = {
                path: member
                for path, member in wanted.items()
                if not ((root / path).is_file() and (root / path).stat().st_size == member.file_size)
            }
            require_space(root, sum(member.file_size for member in waiting.values()), f"extracting {archive.name}")
            for path, member in waiting.items():
                with atomic_file(root / path) as temporary, opened.open(member) as source, temporary.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)  # reading to the end checks the stored CRC
    except (BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise DamagedArchive(f"{archive} is damaged ({error}): run the same command again to fetch it anew") from error
    except OSError as error:
        raise DownloadError(
            f"{archive} cannot be extracted below {root}: {error.strerror or error}. Free space or choose another "
            "data.root and run the same command again, extracted files are kept"
        ) from error
    return {path: member.file_size for path, member in wanted.items()}


def _refuse_unsafe(archive: Path, members: Iterable[ZipInfo]) -> None:
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        outside = name.is_absolute() or ".." in name.parts or ":" in name.parts[0] if name.parts else True
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            raise DownloadError(
                f"{archive} holds {member.filename!r}, a link or a path outside its folder: nothing was extracted, do "
                "not trust this file"
            )
        if member.flag_bits & 1:
            raise DownloadError(f"{archive} holds the encrypted file {member.filename!r}: nothing was extracted")


def _choose(archive: Path, members: Iterable[ZipInfo], products: Iterable[Product]) -> dict[str, ZipInfo]:
    """Members by their path below the root: base name in the product's folder, whatever folders the archive has."""
    files = [member for member in members if not member.is_dir() and not member.filename.startswith("__MACOSX/")]
    chosen: dict[str, ZipInfo] = {}
    for product in products:
        found = {}
        for member in files:
            name = PurePosixPath(member.filename).name
            if fnmatch.fnmatchcase(name, product.pattern):
                found[f"{product.folder}/{name}"] = member
        if len(found) != product.count:
            raise DamagedArchive(
                f"{archive} holds {len(found)} file(s) named {product.pattern}, expected {product.count}: the address "
                "serves another archive than the published one"
            )
        chosen |= found
    return chosen
