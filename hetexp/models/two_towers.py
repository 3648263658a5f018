"""CLIP and SigLIP: the similarity of a text and a picture, each read by a tower of its own.

Streams: `text` and `image`; SigLIP has `probe` besides, the one token that pools the picture by attending it. All texts
and pictures of a batch belong together: a target names one of each, and every target has a trace of its own.

CLIP: Radford et al., ICML 2021, doi:10.48550/arXiv.2103.00020. SigLIP: Zhai et al., ICCV 2023,
doi:10.48550/arXiv.2303.15343.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import CLIPModel, SiglipModel

from hetexp.errors import InputError
from hetexp.models.gradients import classes_read
from hetexp.models.observed_model import ObservedModel
from hetexp.models.observed_run import Inputs, Place, Question, Run, patches
from hetexp.models.processed import as_list, mask_of
from hetexp.models.trace import Target
from hetexp.models.wiring import Wire


class TwoTowers(ObservedModel):
    """A model that scores every picture of a batch with every text; y = logits_per_image[query, index]."""

    kind = "similarity"
    sources: tuple[str, ...] = ("text", "image")
    padding: ClassVar[bool | str] = True  # of texts, as the processor takes it
    before: ClassVar[int]  # tokens of `image` before the first patch

    def batch_size(self, inputs: Inputs) -> int:
        return 1

    def check_targets(self, batch: Inputs, targets: Sequence[Sequence[Target]]) -> None:
        """Every target names its pair, so any grouping does."""

    def encoder_wires(self) -> Sequence[Wire]:
        """Self-attention of each tower, the picture's first, as the model runs them."""
        towers = {"image": self.model.vision_model, "text": self.model.text_model}
        return [
            Wire(f"{stream}.{i}", layer.self_attn, stream, stream)
            for stream, tower in towers.items()
            for i, layer in enumerate(tower.encoder.layers)
        ]

    def fusion_wires(self) -> Sequence[Wire]:
        return []

    def first_layers(self) -> Mapping[str, nn.Module]:
        return {
            "image": self.model.vision_model.encoder.layers[0],
            "text": self.model.text_model.encoder.layers[0],
        }

    def run(self, inputs: Inputs) -> tuple[Tensor, Mapping[str, Any]]:
        return self.model(**inputs).logits_per_image[None], {}

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        shape = (len(inputs["pixel_values"]), self.before + len(self._patches(inputs).tokens))
        return {
            "image": torch.ones(shape, dtype=torch.bool),
            "text": mask_of(inputs.get("attention_mask"), inputs["input_ids"]),
        }

    def _patches(self, inputs: Inputs) -> Place:
        patch = self.model.config.vision_config.patch_size
        return patches("image", inputs["pixel_values"], patch, self.before)

    def places(self, run: Run, item: int) -> dict[str, Place]:
        words = run.inputs["input_ids"].shape[1]
        text = Place("text", torch.arange(words), (words,))
        return {"text": text, "image": self._patches(run.inputs)}

    def row(self, run: Run, item: int, target: Target) -> int:
        n = run.logits.shape[1]
        if target.query is not None and not 0 <= target.query < n:
            raise InputError(f"image {target.query} does not exist: this batch has images 0 to {n - 1}")
        return target.query or 0

    def questions(self, run: Run, targets: Sequence[Sequence[Target]]) -> list[Question]:
        """A trace for every target; one without a query stands for every image."""
        found = []
        for target in (target for own in targets for target in own):
            images = range(run.logits.shape[1]) if target.query is None else [self.row(run, 0, target)]
            for image in images:
                y = target(run.logits[0, image])
                texts = classes_read(target, run.logits[0, image])
                if len(texts) != 1:
                    raise InputError(f"{target} names several texts: explain the similarity of one, Logit(text, image)")
                members = {stream: texts[0] if stream == "text" else image for stream in run.valid}
                found.append(Question((target,), (image,), (y,), 0, members))
        return found

    def prepare(self, text: str | Sequence[str], image: Any) -> dict[str, Tensor]:
        """Inputs of one or several texts and one or several RGB pictures."""
        processor = self.require_processor()
        return self.placed(
            dict(processor(text=as_list(text), images=as_list(image), padding=self.padding, return_tensors="pt"))
        )

    def token_texts(self, inputs: Inputs, item: int = 0) -> dict[str, list[str]]:
        """Tokens of one of the texts."""
        return {"text": self.words(inputs["input_ids"][item])}


class ClipAdapter(TwoTowers):
    """A `CLIPModel`: a text is read from its end token, a picture from its CLS, which is no part of the source `image`.

    Words attend none after themselves, so what follows the end token takes no part.
    """

    name = "clip"
    model_class = CLIPModel
    before = 1
    causal = "text"

    def readouts(self, run: Run, question: Question) -> dict[str, Sequence[int]]:
        ids, end = run.inputs["input_ids"][question.members["text"]], self.model.text_model.eos_token_id
        # the library's own choice: checkpoints with the wrong number 2 mean the largest one
        last = ids.argmax() if end == 2 else (ids == end).int().argmax()
        return {"text": [int(last)], "image": [0]}


class SiglipAdapter(TwoTowers):
    """A `SiglipModel`: a text is read from its last token, padding or not; a picture from the probe that pools it.

    The model was trained on texts padded to one length without a mask: such padding is text to it, and is reported.
    """

    name = "siglip"
    model_class = SiglipModel
    before = 0
    padding = "max_length"

    def fusion_wires(self) -> Sequence[Wire]:
        """The probe attends the picture."""
        return [Wire("pool", self.model.vision_model.head.attention, "probe", "image")]

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        found = super().valid(inputs, notes)
        text = found["text"].clone()
        text[:, -1] = True  # what the text is read from
        return found | {"text": text, "probe": torch.ones_like(found["image"][:, :1])}

    def readouts(self, run: Run, question: Question) -> dict[str, Sequence[int]]:
        return {"text": [run.inputs["input_ids"].shape[1] - 1], "probe": [0]}

    def outputs(self, run: Run, question: Question) -> dict[str, Any]:
        """Logits, and the probability of every pair by itself."""
        logits = run.logits[0].detach()
        return {"logits": logits, "scores": logits.double().sigmoid()}
