"""The annotated object behind a detection, for samples: whether there is one, how large it is, and its mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hetexp.data.categories import category_ids, category_of
from hetexp.data.coco import SceneItem
from hetexp.data.registry import DetectionData
from hetexp.experiments.detection.ground_truth import owner_of, size_of
from hetexp.explanation import Row
from hetexp.reporting.run_lengths import plain_run_lengths
from hetexp.targets import index_of


class DetectedObjects:
    """Finds the object that a detection belongs to, by the rule of the ground-truth measures.

    Args:
        data: the annotated images.
        labels: of the detector.
        renamed: `data.categories`.

    Raises:
        ConfigError: if `renamed` does not fit.
        DataError: if no label is a category of the data.
    """

    def __init__(self, data: DetectionData, labels: Mapping[int, str], renamed: Any) -> None:
        self._coco = data.coco
        self._labels = labels
        self._categories = category_ids(labels, data.coco, renamed)

    def behind(self, item: SceneItem, found: Row) -> dict[str, Any]:
        """ "correct", whether there is an object, None for a class that the data lacks; "size", COCO's name for that of
        the object, else of the box; "mask" of the object as run lengths, {"size": [H, W], "counts": ...}.
        """
        assert found.box is not None
        x1, y1, x2, y2 = found.box
        box = [x1 * item.width, y1 * item.height, (x2 - x1) * item.width, (y2 - y1) * item.height]
        label = list(self._labels)[index_of(found.label, self._labels.values())]
        category = category_of(label, self._categories, self._labels)
        annotations = [a for a in self._coco.imgToAnns.get(item.image_id, []) if not a.get("iscrowd", 0)]
        owner = owner_of(annotations, category, box)
        if owner is None:
            return {"correct": None if category is None else False, "size": size_of(box[2] * box[3])}
        mask = plain_run_lengths(self._coco.annToRLE(owner))
        return {"correct": True, "size": size_of(owner["area"]), "mask": mask}
