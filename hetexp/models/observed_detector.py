"""Detectors that run as the library runs them, observed: a wiring says what their attention modules connect.

Streams: `image`, the tokens of one or several feature grids, finest grid first, and `queries`. Images of several sizes
in a batch run apart, each on its own pixels, so padding reaches no part of the model.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hetexp.models.backbone import folded, grid_length
from hetexp.models.detector import AUTOCAST, ImageDetector
from hetexp.models.finite import require_finite
from hetexp.models.gradients import GRADIENT_BUDGET, batched_gradients
from hetexp.models.observe import frozen, hooked, replaced, resolve_features, share
from hetexp.models.protocols import Detections
from hetexp.models.trace import AttentionTrace, Features, Group, Layout, Level, Target, View, cells
from hetexp.models.watch import Seen, Watch
from hetexp.models.wiring import Wire, step

Grid = tuple[int, int]
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Run:
    """What one observed forward pass of images of one size left behind.

    Attributes:
        inputs: what the model was given, without padding.
        logits: the model's own [B, Q, ...].
        boxes: [B, Q, 4] cxcywh, relative.
        seen: step's name -> what was observed.
        features: feature name -> its tensors, a level each, in the graph [B, C, h, w] or [B, N, C].
        grids: (h, w) of every level.
    """

    inputs: Inputs
    logits: Tensor
    boxes: Tensor
    seen: Mapping[str, Seen]
    features: Mapping[str, Sequence[Tensor]]
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class Gradients:
    """Every target's gradients: of outputs by step [k, B, heads, Nq, head_dim], of features by name and level."""

    outputs: Mapping[str, Tensor | None]
    features: Mapping[str, Sequence[Tensor | None]]


class ObservedDetector(ImageDetector):
    """A detector of the library behind a wiring; a `Detector`."""

    feature_names: tuple[str, ...] = ("projection", "encoder")
    has_no_object: ClassVar[bool] = False
    other_inputs: ClassVar[tuple[str, ...]] = ()  # what the model reads beside pixels, an equal share per image

    # -- the wiring --------------------------------------------------------------------------------------------

    @abstractmethod
    def encoder_wires(self) -> Sequence[Wire]:
        """Self-attention of the image's tokens, first to last."""

    @abstractmethod
    def decoder_wires(self) -> Sequence[Wire]:
        """What follows, first to last."""

    @abstractmethod
    def feature_modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """Feature name -> the modules whose outputs it is, finest level first."""

    @property
    def backbone(self) -> nn.Module:
        """What makes feature grids of pixels: no attention of the wiring, so that it may run in another precision."""
        backbone: nn.Module = self.model.get_submodule(self.resnet.rpartition(".")[0])
        return backbone

    def class_scores(self, logits: Tensor) -> Tensor:
        """Every class has a probability of its own, unless one of the logits stands for "no object"."""
        return logits.softmax(-1)[..., :-1] if self.has_no_object else logits.sigmoid()

    def grids(self, pixels: Tensor, projection: Sequence[Tensor]) -> tuple[Grid, ...]:
        """(h, w) of every level, from the images and their default features."""
        return tuple((x.shape[2], x.shape[3]) for x in projection)

    def views(self, grids: Sequence[Grid]) -> dict[str, View]:
        """What the sources are of the streams."""
        return {"image": View("image")}

    def padded_length(self, padded: int, real: int, cells: int) -> int:
        """Cells along a padded side [pixels], from how many its real part became."""
        return grid_length(padded, real, cells)

    def readouts(self, queries: Tensor, grids: Sequence[Grid]) -> dict[str, Tensor]:
        """The tokens that the predictions of some object queries [k] are read from."""
        return {"queries": queries}

    def wires(self) -> Sequence[Wire]:
        """All that is observed, in the order in which the model runs it."""
        return [*self.encoder_wires(), *self.decoder_wires()]

    def predict(self, inputs: Inputs) -> Any:
        """The model's own output for images without padding; it has `logits` and `pred_boxes`."""
        return self.model(pixel_values=inputs["pixel_values"])

    def stream_features(
        self, run: Run, name: str, gradients: Sequence[Tensor | None], b: int, k: int
    ) -> dict[str, Features]:
        """A feature of one image by stream, and its gradients for `k` targets."""
        return {self.views(run.grids)["image"].stream: _features(run.features[name], gradients, b, k)}

    def sizes(self, run: Run) -> dict[str, int]:
        """Tokens of every stream."""
        return {"image": sum(h * w for h, w in run.grids), "queries": run.logits.shape[1]}

    # -- traces ------------------------------------------------------------------------------------------------

    def trace(
        self,
        inputs: Mapping[str, Tensor],
        targets: Sequence[Sequence[Target]],
        *,
        features: Collection[str] = (),
    ) -> list[AttentionTrace]:
        wanted = resolve_features(features, self.feature_names)
        pixels, sizes = self._pixels(inputs)
        found: dict[int, AttentionTrace] = {}
        for members, batch in self._by_size(inputs, pixels, sizes):
            traces = self._traces(batch, [targets[b] for b in members], wanted, (pixels.shape[2], pixels.shape[3]))
            found |= dict(zip(members, traces, strict=True))
        return [found[b] for b in range(len(pixels))]

    @torch.no_grad()
    def detect(self, inputs: Mapping[str, Tensor]) -> list[Detections]:
        """Predictions per image, padding handled as in `trace`."""
        pixels, sizes = self._pixels(inputs)
        found: dict[int, Detections] = {}
        for members, batch in self._by_size(inputs, pixels, sizes):
            with folded(self.backbone), self._autocast():
                output = self._predicted(batch)
            one_by_one = map(self._detections, output.logits, output.pred_boxes)
            found |= dict(zip(members, one_by_one, strict=True))
        return [found[b] for b in range(len(pixels))]

    def _by_size(self, inputs: Inputs, pixels: Tensor, sizes: Sequence[Grid]) -> Iterator[tuple[list[int], Inputs]]:
        """Numbers of the images of one size, and their inputs: pixels without padding, the rest as it was given."""
        others = {name: inputs[name] for name in self.other_inputs if name in inputs}
        for height, width in dict.fromkeys(sizes):
            members = [b for b, size in enumerate(sizes) if size == (height, width)]
            own = {name: share(x, len(pixels), members) for name, x in others.items()}
            yield members, {"pixel_values": pixels[members, :, :height, :width], **own}

    def _traces(
        self, inputs: Inputs, targets: Sequence[Sequence[Target]], wanted: Mapping[str, str], padded: Grid
    ) -> list[AttentionTrace]:
        names = list(dict.fromkeys(wanted.values()))
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.model):
            run = self._run(inputs, names)
            chosen, scalars = self._asked(run.logits, run.boxes, targets)
        n = len(targets)
        if max(map(len, scalars)) * _gradient_bytes(run) <= GRADIENT_BUDGET:
            found = _gradients(run, scalars)
            return [self._item(run, b, pairs, found, wanted, padded) for b, pairs in enumerate(chosen)]
        if n > 1:  # one at a time, or every backward pass would go through all images again
            alone = [{name: share(x, n, [b]) for name, x in inputs.items()} for b in range(n)]
            return [self._traces(alone[b], [own], wanted, padded)[0] for b, own in enumerate(targets)]

        def part(start: int, stop: int) -> AttentionTrace:
            found = _gradients(run, [scalars[0][start:stop]], keep_graph=True)
            return self._item(run, 0, chosen[0][start:stop], found, wanted, padded)

        nothing = _gradients(run, [[]])
        return [replace(self._item(run, 0, chosen[0], nothing, wanted, padded), deferred=part)]

    def _predicted(self, inputs: Inputs) -> Any:
        """`predict`, whose output must be finite."""
        output = self.predict(inputs)
        again = partial(self.predict, inputs)
        require_finite(self.model, output.logits, output.pred_boxes, inputs=inputs, again=again)
        return output

    def _run(self, inputs: Inputs, names: Sequence[str]) -> Run:
        wires = {wire.name: wire.module for wire in self.wires()}
        modules = self.feature_modules()
        kept: dict[str, list[Tensor]] = {name: [] for name in modules}
        watch = Watch(wires)
        observing = (_keeping(modules, kept, names), watch.watching(self.model))
        with folded(self.backbone), self._autocast(), observing[0], observing[1]:
            output = self._predicted(inputs)
        seen = {call.name: call for call in watch.calls}
        assert list(seen) == list(wires), f"observed {[call.name for call in watch.calls]}, wired {list(wires)}"
        grids = self.grids(inputs["pixel_values"], kept[self.feature_names[0]])
        return Run(inputs, output.logits, output.pred_boxes, seen, {name: kept[name] for name in names}, grids)

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        """The backbone runs in the precision that was asked for."""
        if self.autocast is None:
            yield
            return
        backbone, dtype = self.backbone, AUTOCAST[self.autocast]

        def forward(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(self.device.type, dtype):
                return _cast(plain(*args, **kwargs), self.dtype)

        plain = backbone.forward
        with replaced(backbone, "forward", forward):
            yield

    def _item(
        self,
        run: Run,
        b: int,
        pairs: Sequence[tuple[Target, int]],
        gradients: Gradients,
        wanted: Mapping[str, str],
        padded: Grid,
    ) -> AttentionTrace:
        k, pixels = len(pairs), run.inputs["pixel_values"]
        size = (pixels.shape[2], pixels.shape[3])
        queries = torch.tensor([q for _, q in pairs], dtype=torch.long, device=run.logits.device)

        def groups(wires: Sequence[Wire]) -> tuple[Group, ...]:
            return tuple(
                (step(w, run.seen[w.name], gradients.outputs[w.name], b, k, _tokens_of(w, run.grids, queries.device)),)
                for w in wires
            )

        return AttentionTrace(
            sizes=self.sizes(run),
            views=self.views(run.grids),
            encoder=groups(self.encoder_wires()),
            fusion=groups(self.decoder_wires()),
            readouts=self.readouts(queries, run.grids),
            targets=tuple(target for target, _ in pairs),
            layouts={"image": _layout(run.grids, size, padded, self.padded_length, run.logits.device)},
            queries=queries,
            features={
                asked: self.stream_features(run, name, gradients.features[name], b, k) for asked, name in wanted.items()
            },
            outputs={
                "logits": run.logits[b].detach(),
                "detections": self._detections(run.logits[b].detach(), run.boxes[b].detach()),
            },
        )


def _gradient_bytes(run: Run) -> int:
    """Bytes of one target's gradients, for every image of the batch."""
    tensors = [*(seen.output for seen in run.seen.values()), *(x for levels in run.features.values() for x in levels)]
    return sum(x.numel() * x.element_size() for x in tensors)


def _gradients(run: Run, scalars: Sequence[Sequence[Tensor]], keep_graph: bool = False) -> Gradients:
    levels = [x for several in run.features.values() for x in several]
    outputs = [seen.output for seen in run.seen.values()]
    found = iter(batched_gradients(scalars, [*outputs, *levels], keep_graph=keep_graph))
    of_outputs = {}
    for name, seen in run.seen.items():
        gradient = next(found)
        of_outputs[name] = None if gradient is None else seen.by_head(gradient)
    return Gradients(of_outputs, {name: [next(found) for _ in several] for name, several in run.features.items()})


@contextmanager
def _keeping(
    modules: Mapping[str, Sequence[nn.Module]], kept: dict[str, list[Tensor]], wanted: Collection[str]
) -> Iterator[None]:
    """Keep the outputs of modules; the graph reaches back to those that are wanted."""

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, Tensor):  # where a module hands on its input, others may read that too
                output = output.view_as(output)
            for x in _tensors(output):
                if name in wanted and not x.requires_grad:
                    x.requires_grad_()
                kept[name].append(x)
            return output

        return hook

    with hooked(m.register_forward_hook(keep(name)) for name, several in modules.items() for m in several):
        yield


def _tensors(output: Any) -> list[Tensor]:
    """The hidden states that a module returns, in whatever form the library wraps them."""
    if isinstance(output, Tensor):
        return [output]
    if hasattr(output, "last_hidden_state"):
        return _tensors(output.last_hidden_state)
    if isinstance(output, list):  # levels, with or without their masks
        return [x for level in output for x in _tensors(level)]
    return _tensors(output[0])


def _cast(output: Any, dtype: torch.dtype) -> Any:
    """Floating tensors of a backbone's output in another precision."""
    if isinstance(output, Tensor):
        return output.to(dtype) if output.is_floating_point() else output
    return type(output)(_cast(x, dtype) for x in output) if isinstance(output, list | tuple) else output


def _tokens_of(wire: Wire, grids: Sequence[Grid], device: torch.device) -> Tensor | None:
    """Which tokens of `image` a wire connects; None where it is all of them."""
    if wire.level is None:
        return None
    ends = list(accumulate(h * w for h, w in grids))
    h, w = grids[wire.level]
    return torch.arange(ends[wire.level] - h * w, ends[wire.level], device=device)


def _layout(
    grids: Sequence[Grid], size: Grid, padded: Grid, length: Callable[[int, int, int], int], device: torch.device
) -> Layout:
    """Where the tokens of an image of one size lie in a batch that is padded to another; `length` as `grid_length`."""
    levels = [Level((length(padded[0], size[0], h), length(padded[1], size[1], w)), (h, w)) for h, w in grids]
    index, start = [], 0
    for level in levels:
        index.append(start + cells(level.valid, level.shape, device))
        start += math.prod(level.shape)
    return Layout(levels[0].shape, torch.cat(index), size, tuple(levels) if len(levels) > 1 else ())


def _features(levels: Sequence[Tensor], gradients: Sequence[Tensor | None], b: int, k: int) -> Features:
    """Activations and gradients of all levels, token by token."""

    def tokens(x: Tensor) -> Tensor:
        return x.flatten(-2).transpose(-1, -2) if levels[0].ndim == 4 else x

    slopes = [
        x.new_zeros(k, *x.shape[1:]) if gradient is None else gradient[:k, b]
        for x, gradient in zip(levels, gradients, strict=True)
    ]
    return Features(torch.cat([tokens(x[b].detach()) for x in levels]), torch.cat([tokens(g) for g in slopes], 1))
