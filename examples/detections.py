"""Which pixels made DETR see each object? Relevance maps and masks of one image, in a few lines of Python.

python examples/detections.py [image.jpg] [out.png]
"""

from __future__ import annotations

import sys

import torch
from matplotlib import pyplot as plt
from PIL import Image

import hetexp
from hetexp.paths import asset


def main(path: str | None = None, out: str = "detections.png") -> dict[str, torch.Tensor]:
    """Explain every detection of an image by two methods, save a picture, return the maps [k, h, w]."""
    image = Image.open(path or asset("scenes/val/images/000175.jpg")).convert("RGB")
    adapter = hetexp.load_model("detr", asset("detr"))  # or "facebook/detr-resnet-50", or a folder of yours
    inputs = adapter.prepare([image])

    maps = hetexp.explain(adapter, inputs, ["gae", "ours_abs"])  # one forward, one backward for all of it
    relevance = {method: streams["image"] for method, streams in maps.items()}

    logits, _ = adapter.detect(inputs)
    scores, classes = logits[0].softmax(-1)[:, :-1].max(-1)
    kept = (scores > adapter.keep).nonzero().flatten().tolist()
    masks = hetexp.masks.otsu(relevance["ours_abs"], scale=0.3)
    masks = hetexp.masks.to_image(masks, inputs["pixel_values"].shape[-2:], image.size[::-1])
    for row, query in enumerate(kept):
        print(f"{adapter.labels[int(classes[query])]:10} p {scores[query]:.2f}  mask {masks[row].float().mean():6.1%}")

    figure, axes = plt.subplots(len(kept), 3, figsize=(7, 2.4 * len(kept)), squeeze=False)
    for row, query in enumerate(kept):
        axes[row, 0].imshow(image)
        axes[row, 0].set_ylabel(adapter.labels[int(classes[query])])
        for ax, method in zip(axes[row, 1:], relevance, strict=True):
            ax.imshow(relevance[method][row].numpy(), cmap="inferno")
            ax.set_title(method)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    figure.savefig(out)
    plt.close(figure)
    return relevance


if __name__ == "__main__":
    main(*sys.argv[1:])
