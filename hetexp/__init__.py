"""hetexp: explain transformers whose attention mixes several sources."""

from hetexp import masks, targets
from hetexp.attribution.methods import METHODS
from hetexp.explain import explain
from hetexp.models.load import load_model

__all__ = ["METHODS", "explain", "load_model", "masks", "targets"]
__version__ = "0.1.0"
