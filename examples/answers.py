"""Which words and regions made LXMERT answer so, and which spoke for the other answer?

python examples/answers.py [image.jpg] ["is there a zebra?"] [out.png]
"""

from __future__ import annotations

import sys

from PIL import Image

import hetexp
from hetexp.data.regions.features import extract
from hetexp.paths import asset


def main(path: str | None = None, question: str = "is there a zebra?", out: str = "answers.png") -> hetexp.Explanation:
    """Answer a question, explain yes against no with signed relevance, save a picture, return the explanation."""
    image = Image.open(path or asset("scenes/val/images/000175.jpg")).convert("RGB")
    detector = hetexp.load_model(asset("detr"))
    adapter = hetexp.load_model(asset("lxmert"))
    regions = extract(image, detector.model)  # boxes and features of up to 36 regions
    encoded = adapter.encode(question, regions.features, regions.boxes)
    inputs = adapter.collate([encoded])

    # signed: positive relevance raises logit(yes) - logit(no), negative relevance lowers it
    target = hetexp.targets.Difference("yes", "no")
    explanation = hetexp.explain(adapter, inputs, "ours_full", target, image=image)
    explanation.question, explanation.words = question, adapter.question_tokens(encoded)  # for the picture
    explanation.regions = regions.boxes

    print(f"{question} {explanation.labels[0]} (p {explanation.scores[0]:.2f}), explained: {explanation.targets[0]}")
    for word, value in zip(explanation.words, explanation["ours_full"]["text"][0].tolist(), strict=True):
        print(f"{word:>12} {value:+.4f}")
    explanation.plot().savefig(out)
    return explanation


if __name__ == "__main__":
    main(*sys.argv[1:])
