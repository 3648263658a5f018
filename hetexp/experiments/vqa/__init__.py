"""Perturbation and localisation of any model that answers questions (Figure 6), and single explanations."""

from hetexp.experiments.vqa.explain import explain_question as explain_input
from hetexp.experiments.vqa.explain import samples
from hetexp.experiments.vqa.run import run

__all__ = ["explain_input", "run", "samples"]
