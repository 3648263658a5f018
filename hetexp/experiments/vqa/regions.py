"""What questions are asked about: stored regions, or patches where a model cuts pictures up itself."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image

from hetexp.data.coco import ItemError
from hetexp.data.pictures import open_image
from hetexp.data.regions import Regions, RegionStore
from hetexp.errors import ConfigError, DataError
from hetexp.experiments.engine.session import Session
from hetexp.models.protocols import ReadsPictures

SUFFIXES = (".jpg", ".png", ".jpeg", ".webp")
IMAGES_KEPT = 4  # patches of recent images: questions of one image often follow each other


def image_file(folder: Path, img_id: str) -> Path | None:
    """The image of that id, whatever its suffix; None if there is none."""
    paths = (folder / f"{img_id}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


class PatchRegions(RegionStore):
    """The patches of pictures as a model makes them, by image id.

    Args:
        folder: of the images.
        model: what cuts them.
    """

    def __init__(self, folder: Path, model: ReadsPictures) -> None:
        super().__init__(folder)
        self._cut = lru_cache(IMAGES_KEPT)(lambda image_id: _cut(model, self._picture(image_id)))

    @property
    def image_ids(self) -> list[str]:
        return sorted(path.stem for path in self.path.iterdir() if path.suffix in SUFFIXES)

    def _has(self, img_id: str) -> bool:
        return image_file(self.path, img_id) is not None

    def _known(self, img_id: str) -> None:
        if not self._has(img_id):
            raise ItemError(f"image {img_id} is not in {self.path} ({', '.join(SUFFIXES)}): set data.images")

    def _read(self, img_id: str) -> Regions:
        return self._cut(img_id)

    def _content(self, img_id: str) -> bytes:
        return self._file(img_id).read_bytes()

    def _file(self, img_id: str) -> Path:
        self._known(img_id)
        path = image_file(self.path, img_id)
        assert path is not None
        return path

    def _picture(self, img_id: str) -> Image.Image:
        try:
            return open_image(self._file(img_id))
        except DataError as error:
            raise ItemError(str(error)) from error


def _cut(model: ReadsPictures, image: Image.Image) -> Regions:
    features, boxes = model.regions_of(image)
    return Regions(features.float().cpu().numpy(), boxes.float().cpu().numpy(), *image.size)


def regions_for(session: Session) -> RegionStore:
    """What the session's model reads of the pictures of its data.

    Raises:
        ConfigError: if it reads regions, and the data have none.
    """
    adapter, cfg = session.adapter, session.cfg
    if isinstance(adapter, ReadsPictures):
        return PatchRegions(Path(cfg.data.root, cfg.data.images), adapter)
    stored: RegionStore | None = session.data.regions
    if stored is None:
        raise ConfigError(f"{adapter.name} reads regions, and data={cfg.data.name} has none: set data.regions=FILE")
    return stored
