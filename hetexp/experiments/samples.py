"""task=samples: explain a handful of items and keep everything the figures and the report's gallery need."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image

from hetexp.attribution.homologous import Homologous
from hetexp.attribution.methods import METHODS, Method
from hetexp.attribution.ours import Ours
from hetexp.config import scales
from hetexp.data.coco import CocoScenes, SceneItem
from hetexp.data.regions import RegionStore, open_regions
from hetexp.data.vqa import read_answers, read_questions
from hetexp.errors import ConfigError, DataError
from hetexp.experiments.explanations import (
    Explanation,
    Found,
    answer,
    answer_name,
    detect,
    explain_answer,
    explain_detections,
    question_inputs,
    replace_folder,
)
from hetexp.experiments.results import write_run
from hetexp.experiments.session import Session
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.trace import Target
from hetexp.targets import Difference, Logit

log = logging.getLogger("hetexp")

CERTAIN = 0.9  # queries shown in Figures 2-4 are at least this probable (protocol 6)
MOST = 4  # detections of one image, at most
DEFAULT_ITEMS = 6
FIGURE_SCALES = (1.0, 0.3)
FIGURE_METHODS = ("gae", "odam", "ours_abs", "ours_pos", "ours_noised")
SIGNED = "ours_full"
ITEMS_FILE = Path(__file__).with_name("sample_items.yaml")


def listed(data: str) -> dict[str, Any]:
    """The chosen items of a data set; empty if none were chosen."""
    chosen = OmegaConf.to_container(OmegaConf.load(ITEMS_FILE))
    assert isinstance(chosen, dict)
    return dict(chosen.get(data, {}))


def methods_shown(session: Session, extra: tuple[str, ...] = ()) -> dict[str, Method]:
    """The figures' methods, or those the configuration lists."""
    if session.cfg.methods is not None:
        return {s.name: s.method for s in session.methods}
    return {name: METHODS[name] for name in (*FIGURE_METHODS, *extra)}


def run(session: Session) -> None:
    """Write `<outputs>/samples/<model>`, one folder per item."""
    start = time.perf_counter()
    makers = {"detr": detr_samples, "lxmert": lxmert_samples}
    found = makers[session.cfg.model.name](session)
    if not found:
        raise DataError("no item has anything to explain: check the data, or lower model.keep")
    folder = Path(session.cfg.paths.outputs) / "samples" / session.cfg.model.name
    about = {
        "model": session.cfg.model.name,
        "checkpoint": session.checkpoint,
        "data": session.cfg.data.name,
        "versions": session.facts["versions"],
        "run": str(session.folder),
    }
    replace_folder(folder, found, about)
    session.facts["seconds"] = round(time.perf_counter() - start, 2)
    write_run(session.folder, session.facts)
    log.info("%d samples are in %s", len(found), folder)


def detr_samples(session: Session) -> dict[str, Explanation]:
    """The chosen images with every certain detection explained."""
    cfg, adapter = session.cfg, session.adapter
    assert isinstance(adapter, DetrAdapter)
    scenes = CocoScenes(f"{cfg.data.root}/{cfg.data.images}", f"{cfg.data.root}/{cfg.data.annotations}")
    by_id = {item.image_id: item for item in scenes.items}
    chosen = listed(cfg.data.name).get("detr")
    missing = [i for i in chosen or [] if i not in by_id]
    if missing:
        raise DataError(f"sample images {missing} are not in {scenes.annotation_file}: check data.root")
    items = [by_id[i] for i in chosen] if chosen else scenes.items
    wanted_scales = sorted({*FIGURE_SCALES, *scales(cfg)}, reverse=True)
    out: dict[str, Explanation] = {}
    for item in items:
        if not chosen and len(out) >= (cfg.limit or DEFAULT_ITEMS):
            break
        explained = _detr_sample(session, adapter, scenes, item, wanted_scales, fallback=chosen is not None)
        if explained is not None:
            out[str(item.image_id)] = explained
    return out


def _detr_sample(
    session: Session,
    adapter: DetrAdapter,
    scenes: CocoScenes,
    item: SceneItem,
    wanted_scales: list[float],
    fallback: bool,
) -> Explanation | None:
    image = scenes.load(item)
    everything = detect(adapter, image)
    kept = [f for f in everything if f.score > session.cfg.model.keep]
    certain = [f for f in kept if f.score > CERTAIN] or (kept[:1] if fallback else kept[:MOST])
    if not certain:
        log.warning("image %s has no detection with p > %g: no sample of it", item.image_id, session.cfg.model.keep)
        return None
    shown = sorted(certain[:MOST], key=_left_to_right)
    explained = explain_detections(
        adapter,
        image,
        shown,
        [Logit(query=f.query) for f in shown],
        methods_shown(session, ("raw_attention", "rollout", "grad_cam")),
        wanted_scales,
        session.cfg.threshold.upsample,
        session.cfg.model.odam_feature,
    )
    explained.info["item"] = item.image_id
    return explained


def _left_to_right(found: Found) -> float:
    return found.box[0] + found.box[2]


def lxmert_samples(session: Session) -> dict[str, Explanation]:
    """The chosen questions, explained for the answer and, against the second answer, for the difference."""
    cfg, adapter = session.cfg, session.adapter
    assert isinstance(adapter, LxmertAdapter)
    root = Path(cfg.data.root)
    if adapter.answers is None:
        adapter.answers = read_answers(root / cfg.data.answers)
    regions = open_regions(root / cfg.data.regions)
    chosen = listed(cfg.data.name) or _first_questions(root / cfg.data.questions, cfg.limit or DEFAULT_ITEMS)
    out = {}
    for part in ("questions", "logic"):
        for number, entry in enumerate(chosen.get(part, [])):
            explained = lxmert_sample(session, adapter, regions, root, str(entry["image"]), entry["question"])
            explained.info["part"] = part
            out[f"{part}-{number}-{entry['image']}"] = explained
    return out


def _first_questions(path: Path, n: int) -> dict[str, Any]:
    items = [{"image": q.img_id, "question": q.sent} for q in read_questions(path)[:n]]
    polar = [i for i in items if i["question"].lower().startswith(("is ", "are "))]
    return {"questions": items[:4], "logic": (polar or items)[:4]}


def lxmert_sample(
    session: Session, adapter: LxmertAdapter, regions: RegionStore, root: Path, img_id: str, question: str
) -> Explanation:
    """One question of the data set: five methods, homologous parts, and signed relevance of logit and difference."""
    found = regions.regions(img_id)
    features, boxes = torch.from_numpy(found.features), torch.from_numpy(found.boxes)
    inputs = question_inputs(adapter, question, features, boxes)
    order, _ = answer(adapter, inputs)
    best, other = order[0], contrast(adapter, order)
    targets: dict[str, Target] = {"logit": Logit(best), "difference": Difference(best, other)}
    explained = explain_answer(
        adapter,
        find_image(root / session.cfg.data.images, img_id),
        question,
        features,
        boxes,
        targets,
        methods_shown(session) | {SIGNED: Ours("full"), "homologous": Homologous("abs")},
        session.cfg.model.odam_feature,
    )
    explained.info |= {"item": img_id, "contrast": [answer_name(adapter, best), answer_name(adapter, other)]}
    return explained


def contrast(adapter: LxmertAdapter, order: list[int]) -> int:
    """The answer to hold against the best one: yes against no where both exist, else the second best."""
    names = adapter.answers or []
    best = answer_name(adapter, order[0])
    opposite = {"yes": "no", "no": "yes"}.get(best)
    return names.index(opposite) if opposite in names else order[1]


def find_image(folder: Path, img_id: str) -> Image.Image:
    """The image of that id, whatever its suffix.

    Raises:
        DataError: if there is none or it cannot be read.
    """
    for suffix in (".jpg", ".png", ".jpeg", ".webp"):
        path = folder / f"{img_id}{suffix}"
        if path.is_file():
            return open_image(path)
    raise DataError(f"image {img_id} is not in {folder} (.jpg, .png): set data.images to the folder of the images")


def open_image(path: Path) -> Image.Image:
    """An image file as RGB.

    Raises:
        ConfigError: if there is no such file.
        DataError: if it is no image.
    """
    if not path.is_file():
        raise ConfigError(f"image {str(path)!r} does not exist: give the path of an image file, e.g. image=photo.jpg")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}): give a JPEG or PNG file") from error
