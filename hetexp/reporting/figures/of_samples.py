"""The figures that are drawn from samples: which samples each needs, how it is drawn, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from hetexp.reporting.contrast import Contrast
from hetexp.reporting.figures import detections, questions
from hetexp.reporting.names import method_name
from hetexp.reporting.samples import SampleSet


@dataclass(frozen=True)
class SampleFigure:
    """One figure of the paper.

    Attributes:
        kind: of the samples it is drawn from, "detection" or "vqa".
        caption: what it shows.
        drawn: makes it of samples in a contrast.
        compares: whether its rows are methods.
        of_maps: whether it shows relevance, which has a contrast.
    """

    kind: str
    caption: str
    drawn: Callable[[SampleSet, Contrast], Figure]
    compares: bool = True
    of_maps: bool = True

    def draw(self, found: SampleSet, contrast: Contrast = Contrast.own) -> Figure:
        """The figure; `contrast` changes nothing where it shows no relevance."""
        return self.drawn(found, contrast)

    def without(self, found: SampleSet) -> str:
        """The paper's methods that these samples cannot show, as a sentence; "" if there are none."""
        absent = [method_name(m) for m in found.absent] if self.compares else []
        return f"Without {', '.join(absent)}, which these samples do not hold." if absent else ""


SAMPLE_FIGURES = {
    "figure2": SampleFigure(
        "detection",
        "Relevance of detections, a row per method. Outlined is the annotated object; the number is the share of the "
        "positive relevance inside it.",
        lambda found, contrast: detections.draw_relevance(found.samples, found.shown, contrast),
    ),
    "figure3": SampleFigure(
        "detection",
        "The same maps after Otsu's threshold, as the evaluation sees them. Outlined is the annotated object; the "
        "number is the mask's IoU with it.",
        lambda found, _: detections.draw_masks(found.samples, 1.0, found.shown),
        of_maps=False,
    ),
    "figure4": SampleFigure(
        "detection",
        "The same at 0.3 times the threshold.",
        lambda found, _: detections.draw_masks(found.samples, 0.3, found.shown),
        of_maps=False,
    ),
    "figure5": SampleFigure(
        "vqa",
        "Relevance of image regions and of the question's words for the answer given, a row per method. "
        "Where regions overlap the most relevant one is seen; the three strongest are outlined.",
        lambda found, contrast: questions.draw_methods(found.part("questions"), found.shown, contrast),
    ),
    "figure7": SampleFigure(
        "vqa",
        "Semantic interpretation from the homologous parts alone (absolute gradients): what the language encoder and "
        "the object encoder attend to before they meet. Outlined are the annotated objects; the number is the share of "
        "the positive relevance inside them.",
        lambda found, contrast: questions.draw_semantics(found.part("questions"), contrast),
        compares=False,
    ),
    "figure8": SampleFigure(
        "vqa",
        "Logical inspection with signed relevance: red raises y, blue lowers it. (a) y is the answer's logit, "
        "(b) its difference to the opposite answer, on one scale for a question's two maps. Outlined are the objects "
        "that the question names; the numbers are the shares of positive and negative relevance inside them.",
        lambda found, contrast: questions.draw_logic(found.part("logic"), contrast),
        compares=False,
    ),
}
