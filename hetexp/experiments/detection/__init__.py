"""Weakly supervised segmentation by any detector (Tables 1 and 2), and explanations of single images."""

from hetexp.experiments.detection.explain import explain_image as explain_input
from hetexp.experiments.detection.explain import samples
from hetexp.experiments.detection.run import run

__all__ = ["explain_input", "run", "samples"]
