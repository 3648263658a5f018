"""Encoder-decoders that write text: which source words decide theirs, perturbation, and sample sentences."""

from hetexp.experiments.text.run import run
from hetexp.experiments.text.samples import samples

__all__ = ["run", "samples"]
