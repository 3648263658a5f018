"""What the server says to the page: JSON, and the files that it hands out."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hetexp.attribution.corrections import CORRECTIONS
from hetexp.attribution.ours import NOISE_LINKS
from hetexp.explanation import Explanation
from hetexp.reporting.figures.maps import diverges, paint_regions
from hetexp.reporting.figures.style import DIVERGING, SEQUENTIAL
from hetexp.reporting.names import method_name, model_name
from hetexp.serve.pictures import FORMATS, MOST_BYTES, shown_size
from hetexp.serve.scenes import Scene
from hetexp.serve.session import Found, Picture, Play
from hetexp.serve.views import Asked, Subject
from hetexp.targets import SIDES

# `target=` of the configuration -> the page's.
TARGETS = {"logit": "predicted", "second": "other", "difference": "difference", "box": "box"}

PAINTED = 192  # cells along each side of the grid that regions are painted on


def about(play: Play, scenes: Sequence[Scene]) -> dict[str, Any]:
    """What the page must know before it has a picture."""
    session, adapter = play.session, play.session.adapter
    return {
        "model": {"name": model_name(adapter.name), "checkpoint": session.checkpoint},
        "kind": play.view.kind,
        "methods": play.offered.described(),
        "corrections": CORRECTIONS,
        "noise_links": NOISE_LINKS,
        "targets": play.view.targets,
        "sides": SIDES,
        "labels": [{"index": index, "name": name} for index, name in adapter.labels.items()],
        "scenes": [{"name": scene.name, "questions": scene.questions} for scene in scenes],
        "start": {
            "method": play.offered.first,
            "target": TARGETS[session.cfg.target.name],
            "side": session.target.side if session.cfg.target.name == "box" else SIDES[0],
            "scale": session.scales[0],
        },
        "colours": {"sequential": _colours(SEQUENTIAL), "diverging": _colours(DIVERGING)},
        "most_bytes": MOST_BYTES,
        "formats": FORMATS,
    }


def of_picture(token: str, picture: Picture) -> dict[str, Any]:
    """A picture that was taken in."""
    width, height = shown_size(picture.size)
    return {
        "token": token,
        "name": picture.name,
        "size": picture.size,
        "shown": {"width": width, "height": height},
        "preview": "data:image/jpeg;base64," + base64.b64encode(picture.preview).decode("ascii"),
    }


def of_relevance(play: Play, subject: Subject, found: Found) -> dict[str, Any]:
    """Every prediction, and the relevance of one; its numbers as base64 of little-endian float32."""
    explanation = found.explanation
    relevance = play.view.relevance(explanation)
    shown = relevance if explanation.regions is None else relevance | {"painted": _painted(explanation, relevance)}
    signed = diverges(found.spec.name, [values.numpy() for values in relevance.values()])
    return {
        **subject.shown,
        "method": {
            "name": found.spec.name,
            "label": method_name(found.spec.name),
            "signed": signed,
        },
        "rows": [asdict(row) for row in found.rows],
        "relevance": {name: _numbers(values) for name, values in shown.items()},
        "otsu": found.otsu,
        "milliseconds": {
            "model": round(1000 * found.pass_seconds, 1),
            "method": round(1000 * found.method_seconds, 1),
        },
    }


def mask_png(mask: Tensor) -> bytes:
    """A mask [H, W] as a picture of one bit per pixel, white where it holds."""
    buffer = io.BytesIO()
    Image.fromarray(mask.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def archive(play: Play, picture: Picture, asked: Asked, found: Found, scale: float) -> bytes:
    """One prediction's relevance as NPZ, with its mask in the picture's own pixels and how it was made; no pickle.

    Entries: `relevance` [h, w] and `mask` [H, W] of an image grid, or `text` [T], `image` [R] and `regions` [R, 4]; and
    `about`, JSON.
    """
    explanation, cfg = found.explanation, play.session.cfg
    values = {name: x[0].numpy() for name, x in play.view.relevance(explanation).items()}
    facts: dict[str, Any] = {"asked": asdict(asked), "row": asdict(explanation.rows[0])}
    arrays: dict[str, Any] = {}
    if found.otsu is None:
        arrays = values
        if explanation.regions is not None:
            arrays["regions"] = explanation.regions.numpy()
        facts |= {"words": explanation.words, "answers": explanation.answers}
    else:
        mask = play.mask(found, scale, picture.size)
        arrays = {"relevance": values["image"], "mask": mask.numpy()}
        facts |= {"otsu": found.otsu, "scale": scale, "upsample": cfg.threshold.upsample.value}
    facts |= {"picture": picture.size, "provenance": explanation.provenance}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, about=np.array(json.dumps(facts, ensure_ascii=False)))
    return buffer.getvalue()


def _painted(explanation: Explanation, relevance: Mapping[str, Tensor]) -> Tensor:
    """Relevance of regions laid over each other on a grid [k, PAINTED, PAINTED] that covers the picture."""
    assert explanation.regions is not None
    boxes = PAINTED * explanation.regions.numpy()
    grids = [paint_regions(boxes, row.numpy(), (PAINTED, PAINTED)) for row in relevance["image"]]
    return torch.from_numpy(np.stack(grids).astype(np.float32))


def _numbers(values: Tensor) -> dict[str, Any]:
    data = values.contiguous().numpy().astype("<f4").tobytes()
    return {"shape": list(values.shape), "data": base64.b64encode(data).decode("ascii")}


def _colours(name: str) -> list[list[int]]:
    """256 colours of a map as red, green, blue."""
    table = mpl.colormaps[name](np.arange(256), bytes=True)
    return [[int(v) for v in colour] for colour in table[:, :3]]
