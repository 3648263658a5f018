"""Explain one input: the public entry point for notebooks and tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from hetexp.attribution.methods import Method, attribute, method_table, observe
from hetexp.errors import InputError
from hetexp.models.load import AnyAdapter
from hetexp.models.trace import Target
from hetexp.targets import Logit


def explain(
    adapter: AnyAdapter,
    inputs: Mapping[str, Tensor],
    methods: Iterable[str] | Mapping[str, Method] | str,
    targets: Target | Sequence[Target] | None = None,
    *,
    odam_feature: str | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Raw relevance of one input for several methods, from one forward and one batched backward pass.

    Args:
        adapter: from `hetexp.load_model`.
        inputs: the Hugging Face model's own keyword tensors, batch 1.
        methods: names (see `hetexp.METHODS`), or name -> method.
        targets: one or several of `hetexp.targets`; None explains every kept query (DETR) or the predicted
            answer (LXMERT).
        odam_feature: which features ODAM reads; the adapter's first by default.

    Returns:
        method -> stream -> relevance. DETR: {"image": [k, h, w]}. LXMERT: {"text": [k, T], "image": [k, R]}.

    Raises:
        ConfigError: for an unknown method.
        InputError: for a batch larger than one, or a target that does not exist.
    """
    table = (
        methods if isinstance(methods, Mapping) else method_table([methods] if isinstance(methods, str) else methods)
    )
    batch = next(iter(inputs.values())).shape[0]
    if batch != 1:
        raise InputError(f"explain takes one input at a time, got a batch of {batch}")
    wanted: Sequence[Target] = [Logit()] if targets is None else targets if isinstance(targets, Sequence) else [targets]
    (trace,) = observe(adapter, inputs, [wanted], table, odam_feature)
    return attribute(trace, table)
