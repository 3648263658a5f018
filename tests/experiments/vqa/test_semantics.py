"""The objects of a question's picture, as samples keep them."""

from __future__ import annotations

import json

from hetexp.config import composed, plain
from hetexp.experiments.vqa.localise import annotations_of
from hetexp.experiments.vqa.semantics import objects_of
from hetexp.reporting.run_lengths import decode_masks


def test_objects_and_whether_a_question_names_them() -> None:
    scenes = annotations_of(plain(composed("model=lxmert").data))
    assert scenes is not None
    found = objects_of(scenes, "000175", ["[CLS]", "is", "there", "a", "zebra", "?", "[SEP]"])
    assert found is not None
    assert {thing["name"]: thing["named"] for thing in found} == {"zebra": True, "bicycle": False, "elephant": False}
    assert json.loads(json.dumps(found)) == found
    (mask,) = decode_masks([found[0]["mask"]], "a test")
    annotated = scenes.coco.imgToAnns[175][0]
    assert found[0]["name"] == scenes.categories[annotated["category_id"]]
    assert mask.sum() == scenes.coco.annToMask(annotated).sum() > 0
    assert {t["name"] for t in objects_of(scenes, "000175", ["zebras"]) or () if t["named"]} == {"zebra"}
    assert objects_of(scenes, "another", ["zebra"]) is None
