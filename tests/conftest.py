"""One computing thread: tests of tiny models are faster so, and leave the machine to others."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
