"""Check a finished perturbation run against removing tokens one input at a time, as the reference does.

    python run.py +experiment=figure6
    python scripts/check_perturbation.py [overrides of that run] > outputs/reference/perturbation_check.md

Every stored answer to a perturbed input is computed anew from the stored relevance: one input per forward pass, no
padding, regions in the order of their relevance. Half an hour for five methods on one core; --every samples questions.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from hetexp.config import composed
from hetexp.evaluation.perturbation import FRACTIONS, PANELS, n_kept
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.vqa.attribution import attribute_all
from hetexp.experiments.vqa.measure import read_outcome
from hetexp.models.protocols import Answerer, EncodedQuestion


def removed(relevance: Tensor, fraction: float, positive: bool) -> list[int]:
    """What stays of n tokens, most relevant first (positive: least relevant first)."""
    return torch.topk(-relevance if positive else relevance, n_kept(len(relevance), fraction)).indices.tolist()


def inputs(text: Tensor, image: Tensor, panel: str, fraction: float) -> tuple[list[int], list[int]]:
    """Kept text positions, in reading order between CLS and SEP, and kept regions, in the order of relevance."""
    modality, positive = PANELS[panel]
    last = len(text) - 1
    if modality == "image":
        return list(range(len(text))), removed(image, fraction, positive)
    inner = sorted(removed(text[1:-1], fraction, positive))
    return [0, *(i + 1 for i in inner), last], list(range(len(image)))


def logits(adapter: Answerer, whole: EncodedQuestion, text: list[int], kept: list[int]) -> Tensor:
    """Answer logits of one input alone."""
    given = {
        "input_ids": whole.input_ids[text],
        "visual_feats": whole.features[kept],
        "visual_pos": whole.boxes[kept],
    }
    return adapter.predict({key: value[None] for key, value in given.items()})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="the run's overrides; +experiment=figure6 is always there")
    parser.add_argument("--methods", default="gae,odam,ours_abs,ours_pos,ours_noised,random")
    parser.add_argument("--every", type=int, default=1, help="check every n-th question only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    given = ["+experiment=figure6", *args.overrides, f"methods=[{args.methods}]", "progress=false"]
    cfg = composed(*given)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(cfg, Path(folder))
    attribute_all(session)
    adapter: Answerer = session.adapter
    questions = session.data.questions
    outcomes = {}
    for spec in session.methods:
        outcome, skipped = read_outcome(session, spec)
        if skipped or (outcome.answers < 0).any():
            raise SystemExit(
                f"{spec.name}: some questions were skipped or have no finite relevance: nothing to compare"
            )
        outcomes[spec.name] = outcome
    compared = passes = 0
    smallest = float("inf")  # gap between the two best logits
    other: dict[str, int] = dict.fromkeys(outcomes, 0)
    gaps: list[float] = []
    rows = range(0, len(questions), args.every)
    with Progress(console=Console(stderr=True)) as progress, torch.no_grad():
        for row in progress.track(rows, description="questions"):
            question = questions[row]
            found = session.data.regions.regions(question.img_id)
            whole = adapter.encode(question.sent, torch.from_numpy(found.features), torch.from_numpy(found.boxes))
            known: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[int, float]] = {}
            for name, outcome in outcomes.items():
                for p, panel in enumerate(PANELS):
                    for f, fraction in enumerate(FRACTIONS):
                        text, kept = inputs(outcome.text[row], outcome.image[row], panel, fraction)
                        key = tuple(text), tuple(kept)
                        if key not in known:
                            best = logits(adapter, whole, text, kept).topk(2)
                            known[key] = int(best.indices[0]), float(best.values[0] - best.values[1])
                            passes += 1
                        answer, gap = known[key]
                        compared += 1
                        smallest = min(smallest, gap)
                        if answer != outcome.answers[row, p, f]:
                            other[name] += 1
                            gaps.append(gap)
    print("# Perturbed answers against removal one input at a time\n")
    print(f"{len(rows)} of {len(questions)} questions, {compared} answers, {passes} single forward passes; checkpoint")
    print(f"{session.checkpoint}, {cfg.dtype.name}. The smallest gap between the two best logits is {smallest:.1e}.\n")
    print("| method | answers that differ |\n| --- | --- |")
    for name, count in other.items():
        print(f"| {name} | {count} |")
    if gaps:
        print(f"\nWhere answers differ, the two best logits lie {min(gaps):.1e} to {max(gaps):.1e} apart.")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
