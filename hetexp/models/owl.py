"""OWL-ViT and OWLv2: an open-vocabulary detector scores every patch of an image with every text that it is given.

Streams: `image` (CLS, then the patches of a square) and `text` (the text that a target reads). Both towers are
homologous: no stream attends another. A score is read from a patch's token and a text's end token. The class head also
multiplies every patch's token with the CLS token; that factor is not followed.

OWL-ViT: Minderer et al., ECCV 2022, doi:10.1007/978-3-031-20080-9_42. OWLv2: Minderer et al., NeurIPS 2023,
doi:10.48550/arXiv.2306.09683.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BaseImageProcessor,
    Owlv2ForObjectDetection,
    OwlViTForObjectDetection,
    PreTrainedModel,
)
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from hetexp.errors import ConfigError, InputError
from hetexp.models.checkpoints import pinned, readable
from hetexp.models.gradients import classes_read
from hetexp.models.observe import share
from hetexp.models.observed_detector import Gradients, Grid, Inputs, ObservedDetector, Run
from hetexp.models.trace import AttentionTrace, Features, Layout, Target, View, cells, reads_box
from hetexp.models.wiring import Wire, encoder_wires, step

CLS = 1  # tokens before the first patch


@dataclass(frozen=True)
class _Predicted:
    logits: Tensor  # [B, patches, texts]
    pred_boxes: Tensor  # [B, patches, 4], relative to the image without padding


class OwlDetector(ObservedDetector):
    """A detector of what texts name; its classes are those texts, and its object queries are the patches.

    Args:
        model: it is set to eval mode.
        processor: image preprocessing.
        tokenizer: of the texts; only `prepare` and `collate` need it.
        texts: what to detect: texts, or class name -> text.
        score_threshold: patches whose best text is more probable are kept.
        autocast: see `ImageDetector`.
    """

    sources: tuple[str, ...] = ("image", "text")
    feature_names: tuple[str, ...] = ("embedding",)
    other_inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    pads: ClassVar[bool]  # whether an image is padded to a square before it is resized

    def __init__(
        self,
        model: PreTrainedModel,
        processor: BaseImageProcessor | None = None,
        *,
        tokenizer: Any = None,
        texts: Sequence[str] | Mapping[str, str] | None = None,
        score_threshold: float = 0.1,
        autocast: str | None = None,
    ) -> None:
        super().__init__(model, processor, score_threshold=score_threshold, autocast=autocast)
        self.tokenizer = tokenizer
        self.texts = dict(texts) if isinstance(texts, Mapping) else {text: text for text in texts or ()}

    @classmethod
    def load(
        cls,
        source: str,
        device: torch.device,
        dtype: torch.dtype,
        revision: str | None = None,
        *,
        score_threshold: float = 0.1,
        autocast: str | None = None,
        texts: Sequence[str] | Mapping[str, str] | None = None,
    ) -> Self:
        """The detector of a checkpoint, for what `texts` name; see `hetexp.load_model`.

        Raises:
            CheckpointError: for a checkpoint that does not fit.
            OSError: for one that is not there.
        """
        revision = pinned(source, revision, cls.revisions)
        model, processor = cls._read(source, dtype, revision)
        folder, tokenizer = Path(source), None
        if not folder.is_dir() or (folder / "tokenizer_config.json").exists():
            with readable(f"the tokenizer of {source!r}"):
                tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        return cls(
            model.to(device),
            processor,
            tokenizer=tokenizer,
            texts=texts,
            score_threshold=score_threshold,
            autocast=autocast,
        )

    # -- texts -------------------------------------------------------------------------------------------------

    @property
    def labels(self) -> dict[int, str]:
        """Number of a text -> the class that it names; empty where the texts come as tensors alone."""
        return dict(enumerate(self.texts))

    @property
    def preparation(self) -> dict[str, Any]:
        return super().preparation | {"texts": self.texts}

    def tokenized(self) -> dict[str, Tensor]:
        """Token ids and mask of the texts [texts, L].

        Raises:
            ConfigError: without texts, or without a tokenizer.
            InputError: for a text that is too long.
        """
        if not self.texts:
            raise ConfigError(
                f"{self.name} detects what texts name, and none are given: say model.texts=[cat,dog], or "
                f"load_model(..., texts=[...])"
            )
        if self.tokenizer is None:
            raise ConfigError(f"this {self.name} has no tokenizer: save it beside the weights")
        found = self.tokenizer(list(self.texts.values()), padding=True, return_tensors="pt")
        most = self.model.config.text_config.max_position_embeddings
        for text, mask in zip(self.texts.values(), found["attention_mask"], strict=True):
            if int(mask.sum()) > most:
                raise InputError(f"text {text!r} has {int(mask.sum())} tokens, this model reads {most}: shorten it")
        return {name: found[name] for name in self.other_inputs}

    def collate(self, pixels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pad images [3, H, W] to one batch, and give each of them all texts."""
        texts = {name: x.repeat(len(pixels), 1).to(self.device) for name, x in self.tokenized().items()}
        return super().collate(pixels) | texts

    # -- the wiring --------------------------------------------------------------------------------------------

    @property
    def towers(self) -> Any:
        """The model of both towers inside the detector."""
        return self.model.base_model

    @property
    def backbone(self) -> nn.Module:
        backbone: nn.Module = self.towers.vision_model.embeddings.patch_embedding  # its one convolution
        return backbone

    def encoder_wires(self) -> Sequence[Wire]:
        """Self-attention of the image's tower."""
        return encoder_wires(self.towers.vision_model.encoder.layers)

    def text_wires(self) -> Sequence[Wire]:
        """Self-attention of the text's tower; every text is an item of the batch."""
        layers = self.towers.text_model.encoder.layers
        return [Wire(f"text.{i}.self", layer.self_attn, "text", "text") for i, layer in enumerate(layers)]

    def decoder_wires(self) -> Sequence[Wire]:
        """None: the towers meet in a product of vectors."""
        return []

    def feature_modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """What the first layer of each tower reads, positions included."""
        return {"embedding": [self.towers.vision_model.pre_layernorm, self.towers.text_model.embeddings]}

    def stream_features(
        self, run: Run, name: str, gradients: Sequence[Tensor | None], b: int, k: int
    ) -> dict[str, Features]:
        """Those of the image; a text's belong to the targets that read it."""
        return {"image": _feature(run.features[name][0], gradients[0], b, slice(0, k))}

    # -- the square --------------------------------------------------------------------------------------------

    @property
    def side(self) -> int:
        """Height and width in pixels of what the model reads."""
        side: int = self.model.config.vision_config.image_size
        return side

    @property
    def patch(self) -> int:
        """Height and width of a patch in pixels."""
        patch: int = self.model.config.vision_config.patch_size
        return patch

    def squared(self, pixels: Tensor) -> Tensor:
        """Images [B, 3, H, W] as the model reads them [B, 3, side, side].

        Raises:
            InputError: for another size.
        """
        height, width = pixels.shape[2:]
        if height == width == self.side:
            return pixels
        if not self.pads or max(height, width) != self.side:
            raise InputError(
                f"pixel_values are {height} x {width}, this model reads {self.side} x {self.side}: use its `prepare`"
            )
        settings = self.processor or self.processor_class
        mean, std = (pixels.new_tensor(list(x)) for x in (settings.image_mean, settings.image_std))
        square = (-mean / std)[:, None, None].expand(len(pixels), 3, self.side, self.side).clone()  # black
        square[:, :, :height, :width] = pixels
        return square

    def predict(self, inputs: Inputs) -> _Predicted:
        """Scores and boxes of all patches; unlike the library's, logits keep the model's precision."""
        pixels, ids, mask = inputs["pixel_values"], inputs["input_ids"].to(self.device), inputs.get("attention_mask")
        features, patches = self.model.image_text_embedder(
            input_ids=ids,
            pixel_values=self.squared(pixels),
            attention_mask=None if mask is None else mask.to(self.device),
        )[:2]
        images = patches.flatten(1, 2)
        logits = self.model.class_predictor(images, features.unflatten(0, (len(pixels), -1)), None)[0]
        no_text = (ids[:, 0] == 0).unflatten(0, (len(pixels), 1, -1))  # an image with fewer texts than another
        logits = logits.masked_fill(no_text, torch.finfo(logits.dtype).min)
        height, width = pixels.shape[2:]
        units = pixels.new_tensor([self.side / width, self.side / height] * 2)
        return _Predicted(logits, self.model.box_predictor(images, patches) * units)

    def grids(self, pixels: Tensor, projection: Sequence[Tensor]) -> tuple[Grid, ...]:
        """(h, w) of the patches that hold a part of the image."""
        return (tuple(-(-n // self.patch) for n in pixels.shape[2:]),)  # type: ignore[return-value]

    def padded_length(self, padded: int, real: int, cells: int) -> int:
        """Patches along a padded side [pixels]."""
        return -(-padded // self.patch)

    def views(self, grids: Sequence[Grid]) -> dict[str, View]:
        """The image is those patches among the tokens."""
        n = self.side // self.patch
        return {"image": View("image", CLS + cells(grids[0], (n, n), self.device))}

    def readouts(self, queries: Tensor, grids: Sequence[Grid]) -> dict[str, Tensor]:
        """Every object query is a patch."""
        return {"image": CLS + queries}

    def sizes(self, run: Run) -> dict[str, int]:
        """Tokens of the image's stream."""
        return {"image": CLS + run.logits.shape[1]}

    def wires(self) -> Sequence[Wire]:
        """The image's tower runs first."""
        return [*self.encoder_wires(), *self.text_wires()]

    # -- traces ------------------------------------------------------------------------------------------------

    def _item(
        self,
        run: Run,
        b: int,
        pairs: Sequence[tuple[Target, int]],
        gradients: Gradients,
        wanted: Mapping[str, str],
        padded: Grid,
    ) -> AttentionTrace:
        """A trace whose stream `text` is, in every slice, the text that its targets read."""
        image = super()._item(run, b, pairs, gradients, wanted, padded)
        texts = [_text_of(target, run.logits[b, query]) for target, query in pairs]
        ids = share(run.inputs["input_ids"], len(run.logits), [b])
        ends = ids.int().argmax(1).tolist()  # the library's own choice: the largest number is the end token's

        def part(start: int, stop: int) -> AttentionTrace:
            text = texts[start] if stop > start else 0
            item, valid = b * len(ids) + text, torch.arange(ends[text] + 1, device=self.device)
            rows = {n: None if g is None else g[start:stop] for n, g in gradients.outputs.items()}
            read = [
                (step(wire, run.seen[wire.name], rows[wire.name], item, stop - start, valid={"text": valid}),)
                for wire in self.text_wires()
            ]
            own = image.slice(start, stop)
            features = {}
            for asked, name in wanted.items():
                found = _feature(run.features[name][1], gradients.features[name][1], item, slice(start, stop))
                found = Features(found.activation[valid], found.gradient[:, valid])
                features[asked] = {**own.features[asked], "text": found}
            return replace(
                own,
                sizes={**own.sizes, "text": len(valid)},
                views={**own.views, "text": View("text")},
                encoder=(*own.encoder, *read),
                readouts={**own.readouts, "text": valid[-1:].expand(stop - start)},
                features=features,
            )

        most = max(ends) + 1
        words = Layout((ids.shape[1],), torch.arange(most, device=self.device))
        end = torch.tensor([ends[text] for text in texts], dtype=torch.long, device=self.device)
        return replace(
            part(0, 0),
            sizes={**image.sizes, "text": most},
            readouts={**image.readouts, "text": end},
            targets=image.targets,
            queries=image.queries,
            layouts={**image.layouts, "text": words},
            alternatives=tuple(texts),
            deferred=part,
        )


def _feature(activation: Tensor, gradient: Tensor | None, item: int, targets: slice) -> Features:
    """A feature [B, N, C] of one item, and its gradients [k, B, N, C] for some targets."""
    own = activation[item].detach()
    if gradient is None:
        return Features(own, own.new_zeros(targets.stop - targets.start, *own.shape))
    return Features(own, gradient[targets, item])


def _text_of(target: Target, logits: Tensor) -> int:
    """The text whose logit a target reads, of one patch's logits [texts]; of a box, the most probable one.

    Raises:
        InputError: for a target that reads several.
    """
    if reads_box(target):
        return int(logits.argmax())
    texts = classes_read(target, logits)
    if len(texts) != 1:
        raise InputError(f"{target} reads {len(texts)} texts: explain the score of one, Logit(class, query)")
    return texts[0]


class OwlViTAdapter(OwlDetector):
    """An `OwlViTForObjectDetection`. An image is resized to the square, whatever its shape."""

    name = "owlvit"
    model_class = OwlViTForObjectDetection
    processor_class = OwlViTImageProcessorPil
    pads = False


class Owlv2Adapter(OwlDetector):
    """An `Owlv2ForObjectDetection`. An image is padded to a square at its right or bottom, and then resized.

    `preprocess` cuts the padding off again, so that the image's own part is known; the model reads it with black beside
    it. There the library's image has a row of mixed pixels, which is all that differs.
    """

    name = "owlv2"
    model_class = Owlv2ForObjectDetection
    processor_class = Owlv2ImageProcessorPil
    pads = True

    def preprocess(self, image: Image) -> Tensor:
        """One RGB image without padding [3, H, W], the longer side as long as the model's square."""
        square = super().preprocess(image)
        longer = max(image.size)
        width, height = (max(1, round(n * self.side / longer)) for n in image.size)
        return square[:, :height, :width]
