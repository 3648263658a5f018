"""VisualBERT and ViLT: question answering with text and picture in one stream.

Stream: `joint`, text first. Every layer is self-attention among all its tokens, so the sources are parts of it and no
layer belongs to one source alone.

VisualBERT: Li et al., 2019, doi:10.48550/arXiv.1908.03557. ViLT: Kim et al., ICML 2021, doi:10.48550/arXiv.2102.03334.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import ViltForQuestionAnswering, VisualBertForQuestionAnswering

from hetexp.errors import InputError
from hetexp.models.observe import replaced
from hetexp.models.observed_model import ObservedModel
from hetexp.models.observed_run import Inputs, Place, Question, Run, sequence
from hetexp.models.processed import WithTokenizer, as_list, mask_of
from hetexp.models.trace import Target
from hetexp.models.wiring import Wire


class JointAnswerer(ObservedModel):
    """A model with one stream that chooses among known answers."""

    kind = "vqa"
    sources: tuple[str, ...] = ("text", "image")
    attention: ClassVar[str]  # the attention module of a layer

    @property
    def labels(self) -> dict[int, str]:
        """Answer index -> answer."""
        return {int(i): str(name) for i, name in self.model.config.id2label.items()}

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers, first to last."""
        body = self.model.base_model
        return list(body.encoder.layer)

    def encoder_wires(self) -> Sequence[Wire]:
        """None: text and picture meet in the first layer."""
        return []

    def fusion_wires(self) -> Sequence[Wire]:
        """Self-attention of the joint stream."""
        return [
            Wire(f"layer.{i}", layer.get_submodule(self.attention), "joint", "joint")
            for i, layer in enumerate(self.layers)
        ]

    def first_layers(self) -> Mapping[str, nn.Module]:
        return {"joint": self.layers[0]}

    def placed(self, inputs: Inputs) -> dict[str, Tensor]:
        """Inputs on the model's device, with the mask of the text."""
        batch = super().placed(inputs)
        batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
        return batch

    def row(self, run: Run, item: int, target: Target) -> int:
        if target.query is not None:
            raise InputError(f"a target names query {target.query}: {self.name} has one row of logits, leave it unset")
        return 0

    def outputs(self, run: Run, question: Question) -> dict[str, Any]:
        return {"logits": run.logits[question.item, 0].detach()}

    def token_texts(self, inputs: Inputs, item: int = 0) -> dict[str, list[str]]:
        """The question's tokens as text."""
        return {"text": self.words(inputs["input_ids"][item])}


class VisualBertAdapter(WithTokenizer, JointAnswerer):
    """A `VisualBertForQuestionAnswering`; the source `image` is its regions.

    The answer is read from the last word of the question (the token before SEP), as in the authors' code.
    """

    name = "visual_bert"
    model_class = VisualBertForQuestionAnswering
    attention = "attention.self"

    def placed(self, inputs: Inputs) -> dict[str, Tensor]:
        batch = super().placed(inputs)
        if int(batch["attention_mask"].sum(1).min()) < 2:
            raise InputError("VisualBERT answers from the token before the last: a question needs at least two tokens")
        return batch

    def run(self, inputs: Inputs) -> tuple[Tensor, Mapping[str, Any]]:
        return self.model(**inputs).logits[:, None], {}

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        regions = mask_of(inputs.get("visual_attention_mask"), inputs["visual_embeds"])
        return {"joint": torch.cat([inputs["attention_mask"].bool(), regions], 1)}

    def places(self, run: Run, item: int) -> dict[str, Place]:
        text, regions = run.inputs["input_ids"].shape[1], run.inputs["visual_embeds"].shape[1]
        tokens = torch.arange(text + regions, device=self.device)
        return {"text": Place("joint", tokens[:text], (text,)), "image": Place("joint", tokens[text:], (regions,))}

    def readouts(self, run: Run, question: Question) -> dict[str, Sequence[int]]:
        last = int(run.inputs["attention_mask"][question.item].sum()) - 2
        return {"joint": [last] * len(question.targets)}

    def prepare(self, text: str | Sequence[str], regions: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        """Inputs of one or several questions, each with the features of its regions [R, D]."""
        several = [regions] if isinstance(regions, Tensor) else list(regions)
        found = dict(self.tokenizer(as_list(text), padding=True, return_tensors="pt"))
        width = max(map(len, several))
        features = several[0].new_zeros(len(several), width, several[0].shape[1])
        mask = torch.zeros(len(several), width, dtype=torch.long)
        for i, one in enumerate(several):
            features[i, : len(one)], mask[i, : len(one)] = one, 1
        return self.placed(found | {"visual_embeds": features, "visual_attention_mask": mask})


class ViltAdapter(JointAnswerer):
    """A `ViltForQuestionAnswering`; the source `image` is its patches, without the picture's own CLS token.

    The answer is read from the text's CLS. The model shuffles the patches, and drops some at random where there are
    more than `config.max_image_length`; the shuffle is fixed here, and every patch is reported at its place.
    """

    name = "vilt"
    model_class = ViltForQuestionAnswering
    attention = "attention.attention"

    def run(self, inputs: Inputs) -> tuple[Tensor, Mapping[str, Any]]:
        with self._patches_noted() as notes, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # the library draws on the CPU
            return self.model(**inputs).logits[:, None], notes

    @contextmanager
    def _patches_noted(self) -> Iterator[dict[str, Any]]:
        """Which patches the model looks at, and in which order."""
        notes: dict[str, Any] = {}
        embeddings = self.model.vilt.embeddings
        plain = embeddings.visual_embed

        def noting(*args: Any, **kwargs: Any) -> Any:
            tokens, mask, (index, grid) = plain(*args, **kwargs)
            notes.update(mask=mask.bool(), index=index[..., 0] * grid[1] + index[..., 1], grid=grid)
            return tokens, mask, (index, grid)

        with replaced(embeddings, "visual_embed", noting):
            yield notes

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"joint": torch.cat([inputs["attention_mask"].bool(), notes["mask"]], 1)}

    def places(self, run: Run, item: int) -> dict[str, Place]:
        text = run.inputs["input_ids"].shape[1]
        (height, width), index = run.notes["grid"], run.notes["index"][item]
        kept = run.notes["mask"][item, 1:].nonzero().flatten()
        order = kept[index[kept].argsort()]
        rows, columns = index[kept] // width, index[kept] % width
        patch = self.model.config.patch_size
        extent = (int(rows.max() + 1) * patch, int(columns.max() + 1) * patch)
        mask = run.inputs["attention_mask"][item]
        return {
            "text": sequence("joint", mask),
            "image": Place("joint", order + text + 1, (height, width), index[order], extent),
        }

    def readouts(self, run: Run, question: Question) -> dict[str, Sequence[int]]:
        return {"joint": [0] * len(question.targets)}

    def prepare(self, text: str | Sequence[str], image: Any) -> dict[str, Tensor]:
        """Inputs of one or several questions, each with its RGB picture."""
        return self.placed(
            dict(self.require_processor()(images=as_list(image), text=as_list(text), padding=True, return_tensors="pt"))
        )
