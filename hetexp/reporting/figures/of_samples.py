"""The figures that are drawn from samples: which samples each needs, how it is drawn, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from hetexp.reporting.figures import detections, questions
from hetexp.reporting.names import method_name
from hetexp.reporting.samples import SampleSet


@dataclass(frozen=True)
class SampleFigure:
    """One figure of the paper.

    Attributes:
        kind: of the samples it is drawn from, "detection" or "vqa".
        caption: what it shows.
        draw: makes it.
        compares: whether its rows are methods.
    """

    kind: str
    caption: str
    draw: Callable[[SampleSet], Figure]
    compares: bool = True

    def without(self, found: SampleSet) -> str:
        """The paper's methods that these samples cannot show, as a sentence; "" if there are none."""
        absent = [method_name(m) for m in found.absent] if self.compares else []
        return f"Without {', '.join(absent)}, which these samples do not hold." if absent else ""


SAMPLE_FIGURES = {
    "figure2": SampleFigure(
        "detection",
        "Relevance of detections, a row per method. Each map runs from its own minimum (dark) to its maximum.",
        lambda found: detections.draw_relevance(found.samples, found.shown),
    ),
    "figure3": SampleFigure(
        "detection",
        "The same maps after Otsu's threshold, as the evaluation sees them.",
        lambda found: detections.draw_masks(found.samples, 1.0, found.shown),
    ),
    "figure4": SampleFigure(
        "detection",
        "The same at 0.3 times the threshold.",
        lambda found: detections.draw_masks(found.samples, 0.3, found.shown),
    ),
    "figure5": SampleFigure(
        "vqa",
        "Relevance of image regions and of the question's words for the answer given, a row per method. "
        "Where regions overlap the most relevant one is seen; the three strongest are outlined.",
        lambda found: questions.draw_methods(found.part("questions"), found.shown),
    ),
    "figure7": SampleFigure(
        "vqa",
        "Semantic interpretation from the homologous parts alone (absolute gradients): what the language encoder and "
        "the object encoder attend to before they meet.",
        lambda found: questions.draw_semantics(found.part("questions")),
        compares=False,
    ),
    "figure8": SampleFigure(
        "vqa",
        "Logical inspection with signed relevance: red raises y, blue lowers it. (a) y is the answer's logit, "
        "(b) its difference to the opposite answer.",
        lambda found: questions.draw_logic(found.part("logic")),
        compares=False,
    ),
}
