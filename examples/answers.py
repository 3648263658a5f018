"""Which words and regions made LXMERT answer so, and which spoke for the other answer?

python examples/answers.py [image.jpg] ["is there a zebra?"] [out.png]
"""

from __future__ import annotations

import sys

import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from PIL import Image

import hetexp
from hetexp.data.region_features import extract
from hetexp.paths import asset


def main(path: str | None = None, question: str = "is there a zebra?", out: str = "answers.png") -> dict[str, float]:
    """Answer a question, explain yes against no with signed relevance, save a picture, return the words' relevance."""
    image = Image.open(path or asset("scenes/val/images/000175.jpg")).convert("RGB")
    detector = hetexp.load_model("detr", asset("detr"))
    adapter = hetexp.load_model("lxmert", asset("lxmert"))
    regions = extract(image, detector.model)  # boxes and features of up to 36 regions
    inputs = {
        "input_ids": torch.tensor([adapter.tokenize(question)]),
        "visual_feats": regions.features[None],
        "visual_pos": regions.boxes[None],
    }
    logits = adapter.predict(inputs)[0]
    yes, no = adapter.answers.index("yes"), adapter.answers.index("no")
    print(
        f"{question} {adapter.answers[int(logits.argmax())]}   logit(yes) - logit(no) = {logits[yes] - logits[no]:.2f}"
    )

    # signed: positive relevance raises logit(yes) - logit(no), negative relevance lowers it
    maps = hetexp.explain(adapter, inputs, "ours_full", targets=hetexp.targets.Difference(yes, no))["ours_full"]
    tokens = adapter.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    words = {token: float(value) for token, value in list(zip(tokens, maps["text"][0], strict=True))[1:-1]}
    for word, value in words.items():
        print(f"{word:>12} {value:+.4f}")

    figure, ax = plt.subplots(figsize=(5, 5))
    ax.imshow(image, alpha=0.6)
    bound = float(maps["image"].abs().max())
    for (x1, y1, x2, y2), value in zip(regions.boxes.tolist(), maps["image"][0].tolist(), strict=True):
        corner, size = (x1 * image.width, y1 * image.height), ((x2 - x1) * image.width, (y2 - y1) * image.height)
        colour = plt.get_cmap("RdBu_r")(0.5 + value / bound / 2)
        ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=4 * abs(value) / bound))
    ax.set_title(question)
    ax.set_axis_off()
    figure.savefig(out)
    plt.close(figure)
    return words


if __name__ == "__main__":
    main(*sys.argv[1:])
