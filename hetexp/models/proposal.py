"""A wiring proposed from one observed pass: streams and steps from what depends on what, token counts, and order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hetexp.errors import InputError
from hetexp.models.matching import is_causal, last_read, logits_of, mixed
from hetexp.models.observe import frozen
from hetexp.models.streams import Stream, source_of, streams_of
from hetexp.models.survey import Call, Survey, calls_of
from hetexp.models.wiring_file import WiredGroup, WiredSource, WiredStep, Wiring


def propose(model: nn.Module, inputs: Mapping[str, Tensor], *, output: str | None = None) -> Wiring:
    """What a model's attention modules connect, as one pass tells it: print it, correct it, give it to `hetexp.wrap`.

    Streams are told apart by what their keys and values depend on, then by their numbers of tokens: give inputs whose
    streams have different numbers (a sentence of 7 tokens beside 17 patches).

    Args:
        model: any module whose forward pass takes tensors by name; it is set to eval mode.
        inputs: one item, without padding.
        output: field of the model's output that holds the logits; by default the tensor itself, or `logits`, or the
            first field with one.

    Returns:
        the wiring; `print` shows it with the shapes that were observed, `save` writes it as YAML.

    Raises:
        InputError: if no attention was observed, or a prediction is not read from single tokens.
    """
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        given = {name: x.detach().clone().to(device) for name, x in inputs.items()}
        floating = {name: x.requires_grad_() for name, x in given.items() if x.is_floating_point()}
        survey = Survey(model)
        with survey.watching(model):
            returned = model(**given)
        if not survey.calls:
            raise InputError(
                f"no attention was observed in {type(model).__name__}: it is seen where a softmax, or "
                "scaled_dot_product_attention, is multiplied with values by PyTorch's own functions"
            )
        calls = calls_of(survey, floating)
        name = _output(returned) if output is None else output
        logits = logits_of(returned, name)
        streams, links = streams_of(calls, given)
        steps = [WiredStep(c.path, a.name, b.name, c.number) for c, (a, b) in zip(calls, links, strict=True)]
        readouts, causal = _readouts(calls, steps, streams, logits)
    encoder, fusion, notes = _program(calls, steps, streams)
    return Wiring(
        encoder,
        fusion,
        {s.name: source_of(s, given) for s in streams if s.input is not None}
        or {s.name: WiredSource(s.name) for s in streams},
        readouts,
        name,
        causal,
        (
            f"Wiring of {type(model).__name__} as one pass suggests it; correct it, then hetexp.wrap(model, file).",
            *notes,
        ),
        {step.name: _shape(call) for step, call in zip(steps, calls, strict=True)},
    )


def _output(returned: Any) -> str | None:
    """Where the logits are likely to be."""
    if isinstance(returned, Tensor):
        return None
    if isinstance(returned, Mapping):
        named = [name for name, x in returned.items() if isinstance(x, Tensor)]
        return next((name for name in ("logits", *named) if name in named), None)
    return "0"


# -- what is read ----------------------------------------------------------------------------------------------


def _readouts(
    calls: Sequence[Call], steps: Sequence[WiredStep], streams: Sequence[Stream], logits: Tensor
) -> tuple[dict[str, str], str | None]:
    """Stream -> the tokens that rows of the logits are read from, and the stream that is causal."""
    seen = {step.name: call.seen for step, call in zip(steps, calls, strict=True)}
    rows = len(logits)
    first, last = (last_read(steps, seen, mixed(logits[row])) for row in (0, rows - 1))
    sizes = {s.name: s.tokens for s in streams}
    found = {}
    for stream, tokens in first.items():
        if len(tokens) != 1 or len(last.get(stream, [])) != 1:
            raise InputError(
                f"one row of the logits is read from {len(tokens)} tokens of stream {stream!r} at once: methods "
                "explain a prediction that is read from one token; name another output"
            )
        found[stream] = _span(tokens[0], last[stream][0], rows, sizes[stream])
    if not found:
        raise InputError("the logits depend on no attention that was observed: name another output")
    read = next(iter(found))
    own = [call for step, call in zip(steps, calls, strict=True) if step.query == step.key == read]
    causal = bool(own) and all(is_causal(call.seen) for call in own)
    return found, read if causal and len(found) == 1 and sizes[read] > 1 else None


def _span(first: int, last: int, rows: int, n: int) -> str:
    """The tokens of the first and last row of the logits, as a token or a range."""
    if first == last:
        return "-1" if first == n - 1 and n > 1 else str(first)
    if (first, last) == (0, n - 1):
        return ":"
    return f"{first - n}:" if last == n - 1 else f"{first}:{last + 1}"


# -- the program -----------------------------------------------------------------------------------------------


def _program(
    calls: Sequence[Call], steps: Sequence[WiredStep], streams: Sequence[Stream]
) -> tuple[tuple[WiredStep, ...], tuple[WiredGroup, ...], list[str]]:
    """Encoder and fusion part, and what is not certain."""
    cross = [i for i, step in enumerate(steps) if step.query != step.key]
    mixing = {i for i in range(len(steps)) if i in cross or any(_same_layer(steps, i, j) for j in cross)}
    touched: set[str] = set()
    encoder, rest, notes = [], [], []
    for i, step in enumerate(steps):
        if i not in mixing and step.query not in touched:
            encoder.append(step)
            continue
        touched.add(step.query)
        rest.append(i)
    updates = {s.name: s.updates for s in streams}
    groups: list[list[int]] = []
    for i in rest:
        step = steps[i]
        before = [j for j in updates[step.key] if j < i and j in rest]
        unread = [j for j in before if j not in calls[i].read]
        if i in cross and unread:  # it reads its keys as they were before those: all since then act at once
            start = next(g for g, group in enumerate(groups) if unread[0] in group)
            groups[start:] = [[j for group in groups[start:] for j in group] + [i]]
            continue
        if unread:
            notes.append(
                f"{step.name} does not read what {steps[unread[-1]].name} wrote to {step.key}: are these two streams?"
            )
        groups.append([i])
    return tuple(encoder), tuple(tuple(steps[i] for i in group) for group in groups), notes


def _same_layer(steps: Sequence[WiredStep], i: int, j: int) -> bool:
    """Whether two calls lie in one layer: their paths share a number in which other paths differ."""
    if steps[i].query != steps[j].query:
        return False
    paths = [step.module.split(".") for step in steps]
    for depth, (a, b) in enumerate(zip(paths[i], paths[j], strict=False)):
        if a != b:
            return False
        if a.isdigit() and any(p[:depth] == paths[i][:depth] and len(p) > depth and p[depth] != a for p in paths):
            return True
    return False


def _shape(call: Call) -> str:
    heads = call.seen.probabilities.shape[1]
    return f"A {heads} × {call.n_query} × {call.n_key}"
