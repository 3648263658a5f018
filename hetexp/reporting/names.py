"""What things are called in print: the paper's names, in the paper's order."""

from __future__ import annotations

# The five methods of the paper's tables and figures, in its order.
PAPER_METHODS = ("gae", "odam", "ours_abs", "ours_pos", "ours_noised")

METHOD_NAMES = {
    "gae": "GAE",
    "odam": "ODAM",
    "ours_abs": "Ours (abs)",
    "ours_pos": "Ours (pos)",
    "ours_noised": "Ours (noised)",
    "ours_full": "Ours (full)",
    "raw_attention": "Raw attention",
    "rollout": "Rollout",
    "grad_cam": "Grad-CAM",
    "partial_lrp": "Partial LRP",
    "transformer_attribution": "Transformer attribution",
    "random": "Random (control)",
}

PANEL_NAMES = {
    "image_negative": "Negative, image",
    "image_positive": "Positive, image",
    "text_negative": "Negative, text",
    "text_positive": "Positive, text",
}


def method_name(key: str) -> str:
    """Printed name of a method; an unregistered one keeps its key."""
    return METHOD_NAMES.get(key, key)


def in_order(keys: set[str]) -> list[str]:
    """Methods in the order of print: the paper's, then the others, the control last."""
    known = [k for k in METHOD_NAMES if k in keys]
    other = sorted(keys - set(METHOD_NAMES))
    return [k for k in known if k != "random"] + other + [k for k in known if k == "random"]
