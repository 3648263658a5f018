"""The question-answering models that train_answerer.py trains: what each is made of and where its regions are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from question_data import TARGETS
from torch import Tensor
from transformers import (
    LxmertConfig,
    LxmertForQuestionAnswering,
    PreTrainedConfig,
    PreTrainedModel,
    VisualBertConfig,
    VisualBertForQuestionAnswering,
)

BOX_SPREAD = 0.3  # of a joint model's first weights on the four numbers of a box, beside over a hundred features

# Answer logits [B, answers] and, of every layer from the embeddings on, the states of the regions [B, R, d].
Answered = tuple[Tensor, Sequence[Tensor]]


@dataclass(frozen=True)
class Architecture:
    """One class of question-answering model of the transformers library.

    Attributes:
        model: its class.
        configuration: makes a configuration from the sizes of the vocabulary and the region features, the answers and
            the number of object classes.
        answer: runs a model on a batch of `Encoder.batch`.
        first_weights: changes what the library starts with.
        role_loss: weight of the loss on each region's role in the question, relative to that on its class.
        classes_are_words: a region's class is read off by the embeddings of the class's words, after the first layer,
            which suits a model that has words and regions in one stream; otherwise by a head of its own, late.
    """

    model: type[PreTrainedModel]
    configuration: Callable[[int, int, Sequence[str], int], PreTrainedConfig]
    answer: Callable[[Any, Mapping[str, Tensor]], Answered]
    first_weights: Callable[[Any], None] = lambda model: None
    role_loss: float = 0.0
    classes_are_words: bool = False

    def untrained(self, config: PreTrainedConfig) -> PreTrainedModel:
        """A model with random weights."""
        model = self.model(config)
        self.first_weights(model)
        return model


def _lxmert(vocabulary: int, width: int, answers: Sequence[str], classes: int) -> LxmertConfig:
    return LxmertConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_attention_heads=4,
        intermediate_size=256,
        l_layers=3,
        r_layers=2,
        x_layers=3,
        max_position_embeddings=64,
        visual_feat_dim=width,
        num_qa_labels=len(answers),
        num_object_labels=classes,
        hidden_dropout_prob=0.05,
        attention_probs_dropout_prob=0.0,
    )


def _answer_lxmert(model: LxmertForQuestionAnswering, batch: Mapping[str, Tensor]) -> Answered:
    out = model.lxmert(**{k: v for k, v in batch.items() if k not in TARGETS}, output_hidden_states=True)
    return model.answer_head(out.pooled_output), out.vision_hidden_states


def _visual_bert(vocabulary: int, width: int, answers: Sequence[str], classes: int) -> VisualBertConfig:
    return VisualBertConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        visual_embedding_dim=width + 4,
        pad_token_id=0,
        appends_boxes=True,  # no setting of the library: it tells readers of the checkpoint what follows the features
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(answers)),
        label2id={answer: i for i, answer in enumerate(answers)},
    )


def _answer_visual_bert(model: VisualBertForQuestionAnswering, batch: Mapping[str, Tensor]) -> Answered:
    words = batch["input_ids"].shape[1]
    out = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"].long(),  # the model counts with it
        token_type_ids=batch["token_type_ids"],
        visual_embeds=torch.cat((batch["visual_feats"], batch["visual_pos"]), -1),
        output_hidden_states=True,
    )
    return out.logits, [state[:, words:] for state in out.hidden_states]


@torch.no_grad()
def _spread_boxes(model: VisualBertForQuestionAnswering) -> None:
    """Places start as loud as looks: one projection reads both, and there are many more numbers of looks."""
    model.visual_bert.embeddings.visual_projection.weight[:, -4:].normal_(0, BOX_SPREAD)


ARCHITECTURES = {
    "lxmert": Architecture(LxmertForQuestionAnswering, _lxmert, _answer_lxmert, role_loss=2.0),
    "visualbert": Architecture(
        VisualBertForQuestionAnswering,
        _visual_bert,
        _answer_visual_bert,
        first_weights=_spread_boxes,
        role_loss=2.0,
        classes_are_words=True,
    ),
}
