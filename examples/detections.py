"""Which pixels made DETR see each object? Relevance maps and masks of one image, in a few lines of Python.

python examples/detections.py [image.jpg] [out.png]
"""

from __future__ import annotations

import sys

from PIL import Image

import hetexp
from hetexp.paths import asset


def main(path: str | None = None, out: str = "detections.png") -> hetexp.Explanation:
    """Explain every detection of an image by two methods, save a picture, return the explanation."""
    image = Image.open(path or asset("scenes/val/images/000175.jpg")).convert("RGB")
    adapter = hetexp.load_model(asset("detr"))  # or "facebook/detr-resnet-50", or a folder of yours

    # one forward pass, and one backward pass per detection, whatever the number of methods
    explanation = hetexp.explain(adapter, adapter.prepare([image]), ["gae", "ours_abs"], image=image)

    masks = explanation.masks(scale=0.3)["ours_abs"]  # bool [k, H, W], a row per detection
    for label, score, mask in zip(explanation.labels, explanation.scores.tolist(), masks, strict=True):
        print(f"{label:10} p {score:.2f}  mask {mask.float().mean():6.1%}")

    explanation.plot().savefig(out)  # explanation["ours_abs"]["image"] holds the maps themselves [k, h, w]
    return explanation


if __name__ == "__main__":
    main(*sys.argv[1:])
