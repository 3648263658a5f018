"""VisualBERT: words and regions in one stream (Li et al., 2019, doi:10.48550/arXiv.1908.03557)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import VisualBertForQuestionAnswering

from hetexp.errors import CheckpointError, InputError
from hetexp.models.joint_stream import JointAnswerer
from hetexp.models.observed_run import Inputs, Place, Question, Run
from hetexp.models.processed import WithTokenizer, as_list, mask_of


class VisualBertAdapter(WithTokenizer, JointAnswerer):
    """A `VisualBertForQuestionAnswering`; the source `image` is its regions.

    The answer is read from the last word of the question (the token before SEP), as in the authors' code. The class has
    no input for boxes: a checkpoint whose configuration says `appends_boxes` reads x1, y1, x2, y2 (in units of the
    image's sides) behind the features of a region.
    """

    name = "visual_bert"
    model_class = VisualBertForQuestionAnswering
    attention = "attention.self"
    image_inputs = ("visual_embeds", "visual_attention_mask")

    def __init__(
        self, model: VisualBertForQuestionAnswering, processor: Any = None, answers: Sequence[str] | None = None
    ) -> None:
        if model.config.bypass_transformer:
            raise CheckpointError(
                "this VisualBERT has bypass_transformer=true, so that words and regions meet in one last layer alone; "
                "explained are those whose layers all read both"
            )
        super().__init__(model, processor, answers)

    @property
    def appends_boxes(self) -> bool:
        """Whether a region's box follows its features."""
        return bool(getattr(self.model.config, "appends_boxes", False))

    @property
    def feature_width(self) -> int:
        return int(self.model.config.visual_embedding_dim) - 4 * self.appends_boxes

    def embed_regions(self, regions: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The features [R, D], with the boxes behind them where the checkpoint was trained so [R, D + 4]."""
        return [torch.cat((f, b), -1) if self.appends_boxes else f for f, b in regions]

    def completed(self, inputs: Inputs) -> dict[str, Tensor]:
        batch = super().completed(inputs)
        if int(batch["attention_mask"].sum(1).min()) < 2:
            raise InputError("VisualBERT answers from the token before the last: a question needs at least two tokens")
        return batch

    def run(self, inputs: Inputs) -> tuple[Tensor, Mapping[str, Any]]:
        return self.model(**inputs).logits[:, None], {}

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        regions = mask_of(inputs.get("visual_attention_mask"), inputs["visual_embeds"])
        return {"joint": torch.cat([mask_of(inputs["attention_mask"], inputs["input_ids"]), regions], 1)}

    def places(self, run: Run, item: int) -> dict[str, Place]:
        text, regions = run.inputs["input_ids"].shape[1], run.inputs["visual_embeds"].shape[1]
        tokens = torch.arange(text + regions)
        return {"text": Place("joint", tokens[:text], (text,)), "image": Place("joint", tokens[text:], (regions,))}

    def answer_token(self, n_text: int) -> int:
        return n_text - 2

    def readouts(self, run: Run, question: Question) -> dict[str, Sequence[int]]:
        last = self.answer_token(int(run.inputs["attention_mask"][question.item].sum()))
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
