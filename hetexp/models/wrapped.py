"""What every adapter can say of the model that it wraps, one of the library or any other module."""

from __future__ import annotations

from typing import Any

import torch


class WrappedModel:
    """An adapter's model, with where and how it computes."""

    model: Any

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of weights and attribution."""
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())
