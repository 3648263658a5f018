"""LXMERT: the attention program of `LxmertForQuestionAnswering`.

Streams: `text` and `image` (regions). Language layers, object-relationship layers, then cross layers, where both
cross-attentions read the streams as they were at the layer's input. The answer is read from text token 0 (CLS).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import LxmertForQuestionAnswering, PreTrainedTokenizerBase

from hetexp.errors import ConfigError, InputError
from hetexp.models.observe import Recorder, frozen, hooked, pick, split_heads
from hetexp.models.trace import (
    AttentionStep,
    AttentionTrace,
    Features,
    Group,
    Layout,
    Target,
    batched_gradients,
)

Leaves = dict[str, Tensor]


class LxmertAdapter:
    """Runs an LXMERT and returns its attention traces.

    Args:
        model: it is set to eval mode.
        tokenizer: only `tokenize` needs it.
        answers: answer strings in the order of the logits, or None.
    """

    name = "lxmert"
    sources: ClassVar[tuple[str, ...]] = ("text", "image")
    odam_features: ClassVar[tuple[str, ...]] = ("embedding", "encoder")

    def __init__(
        self,
        model: LxmertForQuestionAnswering,
        tokenizer: PreTrainedTokenizerBase | None = None,
        answers: Sequence[str] | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.answers = None if answers is None else list(answers)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def tokenize(self, question: str) -> list[int]:
        """Token ids of a question with CLS and SEP.

        Raises:
            InputError: for a question without words, or one longer than the model's positions.
        """
        if self.tokenizer is None:
            raise ConfigError("this LXMERT was built without a tokenizer: load it with hetexp.load_model")
        ids = list(self.tokenizer(question, verbose=False)["input_ids"])  # its own remark on length misleads here
        if set(ids) <= set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}:
            raise InputError(f"question {question!r} has no word besides special tokens: ask something")
        limit = self.model.config.max_position_embeddings
        if len(ids) > limit:
            raise InputError(
                f"question has {len(ids)} tokens, this model takes at most {limit}: shorten {question[:60]!r}..."
            )
        return ids

    def offsets(self, question: str) -> list[tuple[int, int]]:
        """Character range of every token of a question; CLS and SEP have the empty range (0, 0)."""
        if self.tokenizer is None:
            raise ConfigError("this LXMERT was built without a tokenizer: load it with hetexp.load_model")
        return [tuple(pair) for pair in self.tokenizer(question, return_offsets_mapping=True)["offset_mapping"]]

    def trace(
        self,
        inputs: Mapping[str, Tensor],
        targets: Sequence[Sequence[Target]],
        *,
        odam_feature: str | None = None,
        features: bool = True,
    ) -> list[AttentionTrace]:
        """Attention traces of a batch, from one forward pass and one backward pass per target.

        Args:
            inputs: `input_ids` [B, T], `visual_feats` [B, R, D], `visual_pos` [B, R, 4], and optionally
                `attention_mask` [B, T], `token_type_ids` [B, T], `visual_attention_mask` [B, R] (1 = real).
            targets: per item its targets.
            odam_feature: "embedding" (default; embedded regions and tokens) or "encoder" (outputs of the
                language and object-relationship encoders).
            features: False leaves these features out, and the backward pass ends at the first attention.

        Returns:
            one trace per item; its `outputs` hold `logits` [answers].
        """
        feature_name = odam_feature or self.odam_features[0]
        if feature_name not in self.odam_features:
            raise ConfigError(
                f"ODAM feature {feature_name!r} is not known for LXMERT: choose one of {', '.join(self.odam_features)}"
            )
        for row, wanted in enumerate(targets):
            if any(t.query is not None for t in wanted):
                raise InputError(f"target {row} names a query: LXMERT has one row of logits, leave query unset")
        recorder, leaves = Recorder(), Leaves()
        with torch.enable_grad(), frozen(self.model), self._observing(recorder, leaves, feature_name):
            logits = self._run(inputs)
            scalars = [[target(logits[b]) for target in wanted] for b, wanted in enumerate(targets)]
            observations = recorder.all()
            offered = [leaves[s] for s in self.sources] if features else []
            gradients = batched_gradients(scalars, [*offered, *(o.output for _, _, o in observations)])
        by_step = {
            (name, call): (seen, gradient)
            for (name, call, seen), gradient in zip(observations, gradients[len(offered) :], strict=True)
        }
        ids = inputs["input_ids"]
        masks = {
            "text": _mask(inputs.get("attention_mask"), ids.shape),
            "image": _mask(inputs.get("visual_attention_mask"), inputs["visual_feats"].shape[:2]),
        }
        items = []
        for b, wanted in enumerate(targets):
            valid = {s: m[b].nonzero().flatten().to(self.device) for s, m in masks.items()}
            encoder, fusion = self._program(by_step, b, len(wanted), valid)
            items.append(
                AttentionTrace(
                    sizes={s: len(v) for s, v in valid.items()},
                    sources=self.sources,
                    encoder=encoder,
                    fusion=fusion,
                    readout="text",
                    tokens=torch.zeros(len(wanted), dtype=torch.long, device=self.device),
                    layouts={s: Layout((masks[s].shape[1],), v) for s, v in valid.items()},
                    features={
                        s: Features(leaf[b, valid[s]].detach(), _present(slope)[: len(wanted), b, valid[s]])
                        for s, leaf, slope in zip(self.sources, offered, gradients, strict=False)
                    },
                    outputs={"logits": logits[b].detach()},
                )
            )
        return items

    @torch.no_grad()
    def predict(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Answer logits [B, answers]; items whose `visual_attention_mask` is all 0 see no image at all."""
        return self._run(inputs)

    # -- forward -----------------------------------------------------------------------------------------------

    def _run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        batch = {k: v.to(self.device) for k, v in inputs.items()}
        for key in ("visual_feats", "visual_pos"):
            batch[key] = batch[key].to(self.dtype)
        ids, limit = batch["input_ids"], self.model.config.max_position_embeddings
        if ids.shape[1] > limit:
            raise InputError(f"input_ids has {ids.shape[1]} tokens, this model takes at most {limit}")
        batch.setdefault("attention_mask", torch.ones_like(ids))
        batch.setdefault("token_type_ids", torch.zeros_like(ids))
        if batch["visual_feats"].shape[1] == 0:  # the class fails on an empty tensor: one region that nobody sees
            for key in ("visual_feats", "visual_pos"):
                shape = batch[key].shape
                batch[key] = batch[key].new_zeros(shape[0], 1, shape[2])
            batch["visual_attention_mask"] = ids.new_zeros(len(ids), 1)
        regions = batch.get("visual_attention_mask")
        blind = None if regions is None else (regions == 0).all(1)
        with self._blinding(blind):
            return self.model(**batch).question_answering_score

    @contextmanager
    def _blinding(self, blind: Tensor | None) -> Iterator[None]:
        """Text of the marked items [B] gets nothing from the image: what attention over no region returns."""
        if blind is None or not bool(blind.any()):
            yield
            return
        calls = {"n": 0}

        def cut(module: nn.Module, args: Any, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            calls["n"] += 1
            if calls["n"] % 2 == 0:  # every other call is image attending text
                return output
            seen = (~blind).to(output[0].dtype)[:, None, None]
            return (output[0] * seen, *output[1:])

        encoder = self.model.lxmert.encoder
        with hooked(layer.visual_attention.att.register_forward_hook(cut) for layer in encoder.x_layers):
            yield

    @contextmanager
    def _observing(self, recorder: Recorder, leaves: Leaves, feature_name: str) -> Iterator[None]:
        encoder = self.model.lxmert.encoder
        handles = []
        for name, attention in self._attention_modules():

            def ask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
                return args, {**kwargs, "output_attentions": True}

            def close(module: nn.Module, args: Any, output: tuple[Tensor, Tensor], name: str = name) -> tuple[Tensor]:
                recorder.record(name, output[1], output[0])
                return output[:1]  # the caller did not ask for attention maps

            handles += [
                attention.value.register_forward_hook(recorder.value(name)),
                attention.register_forward_pre_hook(ask, with_kwargs=True),
                attention.register_forward_hook(close),
            ]

        def leaf(stream: str, replace: bool) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> Any:
                if not replace:
                    leaves[stream] = output[0]
                    return None
                cut = output.detach().requires_grad_()
                leaves.setdefault(stream, cut)
                return cut

            return hook

        handles += [
            self.model.lxmert.embeddings.register_forward_hook(leaf("text", True)),
            encoder.visn_fc.register_forward_hook(leaf("image", True)),
        ]
        if feature_name == "encoder":
            for stream, layers in (("text", encoder.layer), ("image", encoder.r_layers)):
                if len(layers):
                    handles.append(layers[-1].register_forward_hook(leaf(stream, False)))
        with hooked(handles):
            yield

    def _attention_modules(self) -> Iterator[tuple[str, Any]]:
        encoder = self.model.lxmert.encoder
        for i, layer in enumerate(encoder.layer):
            yield f"language.{i}", layer.attention.self
        for i, layer in enumerate(encoder.r_layers):
            yield f"vision.{i}", layer.attention.self
        for i, layer in enumerate(encoder.x_layers):
            yield f"cross.{i}", layer.visual_attention.att
            yield f"cross.{i}.text", layer.lang_self_att.self
            yield f"cross.{i}.image", layer.visn_self_att.self

    # -- trace -------------------------------------------------------------------------------------------------

    def _program(
        self, by_step: Mapping[tuple[str, int], Any], b: int, k: int, valid: Mapping[str, Tensor]
    ) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
        def step(key: tuple[str, int], query: str, source: str) -> Group:
            """A group of one step, or of none where the answer does not depend on it (last cross layer)."""
            seen, gradient = by_step[key]
            if gradient is None:
                return ()
            heads = seen.probabilities.shape[1]
            return (
                AttentionStep(
                    f"{key[0]}.{query}-{source}",
                    query,
                    source,
                    pick(pick(seen.probabilities[b], 1, valid[query]), 2, valid[source]),
                    split_heads(pick(seen.values[b], 0, valid[source]), heads),
                    split_heads(pick(gradient[:k, b], 1, valid[query]), heads),
                ),
            )

        config = self.model.lxmert.encoder
        encoder = [step((f"language.{i}", 0), "text", "text") for i in range(config.num_l_layers)]
        encoder += [step((f"vision.{i}", 0), "image", "image") for i in range(config.num_r_layers)]
        fusion: list[Group] = []
        for i in range(config.num_x_layers):
            fusion.append(step((f"cross.{i}", 0), "text", "image") + step((f"cross.{i}", 1), "image", "text"))
            fusion.append(
                step((f"cross.{i}.text", 0), "text", "text") + step((f"cross.{i}.image", 0), "image", "image")
            )
        return tuple(g for g in encoder if g), tuple(g for g in fusion if g)


def _mask(mask: Tensor | None, shape: torch.Size) -> Tensor:
    return torch.ones(shape, dtype=torch.bool) if mask is None else mask.bool().cpu()


def _present(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient
