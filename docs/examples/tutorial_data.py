"""A folder of one's own in COCO's format: the first embedded scenes, where photographs of yours would lie."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from hetexp.paths import asset


def main(folder: str = "mine", scenes: int = 12) -> None:
    """Write `<folder>/images` and `<folder>/annotations.json`."""
    source, to = Path(asset("scenes/val")), Path(folder)
    content = json.loads((source / "annotations.json").read_text(encoding="utf-8"))
    images = content["images"][:scenes]
    kept = {image["id"] for image in images}
    annotations = [a for a in content["annotations"] if a["image_id"] in kept]
    (to / "images").mkdir(parents=True)
    for image in images:
        shutil.copy(source / "images" / image["file_name"], to / "images")
    content |= {"images": images, "annotations": annotations}
    (to / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
