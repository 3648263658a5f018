"""LXMERT: the attention program of `LxmertForQuestionAnswering`.

Streams: `text` and `image` (regions). Language layers, object-relationship layers, then cross layers, where both
cross-attentions read the streams as they were at the layer's input. The answer is read from text token 0 (CLS).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LxmertForQuestionAnswering, PreTrainedTokenizerBase

from hetexp.errors import ConfigError, InputError
from hetexp.files import content_hash
from hetexp.models import lxmert_parts
from hetexp.models.answering import Answering, answers_of
from hetexp.models.checkpoints import expect_type, load_weights, pinned, read_config, readable
from hetexp.models.finite import require_finite
from hetexp.models.gradients import batched_gradients
from hetexp.models.observe import frozen, hooked, resolve_features
from hetexp.models.processed import mask_of
from hetexp.models.protocols import EncodedQuestion
from hetexp.models.trace import AttentionTrace, Features, Group, Layout, Target, View, reads_box
from hetexp.models.watch import Seen, Watch
from hetexp.models.wiring import Wire, step
from hetexp.models.wrapped import WrappedModel

REVISIONS = {"unc-nlp/lxmert-vqa-uncased": "c66ce30"}  # with safetensors
# The VQA checkpoint was published without tokenizer files.
TOKENIZERS = {"unc-nlp/lxmert-vqa-uncased": "unc-nlp/lxmert-base-uncased"}

Leaves = dict[str, dict[str, Tensor]]  # feature name -> source -> activation in the graph


class LxmertAdapter(Answering, WrappedModel):
    """Runs an LXMERT and returns its attention traces; an `Answerer`.

    Args:
        model: it is set to eval mode.
        tokenizer: only `encode` and `offsets` need it.
        answers: answer strings in the order of the logits, or None.
    """

    name = "lxmert"
    sources: tuple[str, ...] = ("text", "image")
    feature_names: tuple[str, ...] = ("embedding", "encoder")

    def __init__(
        self,
        model: LxmertForQuestionAnswering,
        tokenizer: PreTrainedTokenizerBase | None = None,
        answers: Sequence[str] | None = None,
    ) -> None:
        self.model: Any = model.eval()
        self.tokenizer = tokenizer
        self.answers = None if answers is None else list(answers)

    @property
    def n_answers(self) -> int:
        return int(self.model.config.num_qa_labels)

    @property
    def feature_width(self) -> int:
        return int(self.model.config.visual_feat_dim)

    @property
    def preparation(self) -> dict[str, Any]:
        vocabulary = None if self.tokenizer is None else content_hash(sorted(self.tokenizer.get_vocab().items()))
        return {"tokenizer": vocabulary}

    @property
    def question_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise ConfigError("this LXMERT was built without a tokenizer: load it with hetexp.load_model")
        return self.tokenizer

    def collate(self, questions: Sequence[EncodedQuestion]) -> dict[str, Tensor]:
        """One padded batch of questions: ids, region features and boxes with their masks (0 = padding)."""
        n, length = len(questions), max(len(q.input_ids) for q in questions)
        regions = max(1, *(len(q.features) for q in questions))
        first = questions[0]
        batch = {
            "input_ids": torch.zeros(n, length, dtype=torch.long),
            "attention_mask": torch.zeros(n, length, dtype=torch.long),
            "visual_feats": first.features.new_zeros(n, regions, first.features.shape[1]),
            "visual_pos": first.boxes.new_zeros(n, regions, 4),
            "visual_attention_mask": torch.zeros(n, regions, dtype=torch.long),
        }
        for row, question in enumerate(questions):
            batch["input_ids"][row, : len(question.input_ids)] = question.input_ids
            batch["attention_mask"][row, : len(question.input_ids)] = 1
            batch["visual_feats"][row, : len(question.features)] = question.features
            batch["visual_pos"][row, : len(question.features)] = question.boxes
            batch["visual_attention_mask"][row, : len(question.features)] = 1
        return batch

    def trace(
        self,
        inputs: Mapping[str, Tensor],
        targets: Sequence[Sequence[Target]],
        *,
        features: Collection[str] = (),
    ) -> list[AttentionTrace]:
        """Attention traces of a batch, from one forward pass and one backward pass per target.

        Args:
            inputs: `input_ids` [B, T], `visual_feats` [B, R, D], `visual_pos` [B, R, 4], and optionally
                `attention_mask` [B, T], `token_type_ids` [B, T], `visual_attention_mask` [B, R] (1 = real).
            targets: per item its targets.
            features: of "embedding" (the default one; embedded regions and tokens) and "encoder" (outputs of the
                language and object-relationship encoders) those to keep with their gradients; without any the
                backward pass ends at the first attention.

        Returns:
            one trace per item; its `outputs` hold `logits` [answers].
        """
        names = resolve_features(features, self.feature_names)
        for row, wanted in enumerate(targets):
            if any(t.query is not None for t in wanted):
                raise InputError(f"target {row} names a query: LXMERT has one row of logits, leave query unset")
            if any(reads_box(t) for t in wanted):
                raise InputError(f"target {row} is a box: LXMERT answers questions, choose a target of logits")
        watch, leaves = Watch(dict(self._attention_modules())), Leaves()
        starting = self._starting(leaves, set(names.values()))
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.model), starting:
            with watch.watching(self.model):
                logits = self._run(inputs)
            scalars = [[target(logits[b]) for target in wanted] for b, wanted in enumerate(targets)]
            offered = [(name, s, leaves[name][s]) for name in dict.fromkeys(names.values()) for s in self.sources]
            found = batched_gradients(scalars, [*(x for _, _, x in offered), *(call.output for call in watch.calls)])
        kept = {(name, s): (x, gradient) for (name, s, x), gradient in zip(offered, found, strict=False)}
        by_step: dict[str, list[tuple[Seen, Tensor | None]]] = {}  # in both directions where a module is called twice
        for call, gradient in zip(watch.calls, found[len(offered) :], strict=True):
            by_step.setdefault(call.name, []).append((call, None if gradient is None else call.by_head(gradient)))
        ids = inputs["input_ids"]
        masks = {
            "text": mask_of(inputs.get("attention_mask"), ids),
            "image": mask_of(inputs.get("visual_attention_mask"), inputs["visual_feats"]),
        }
        items = []
        for b, wanted in enumerate(targets):
            valid = {s: m[b].nonzero().flatten().to(self.device) for s, m in masks.items()}
            encoder, fusion = self._program(by_step, b, len(wanted), valid)
            items.append(
                AttentionTrace(
                    sizes={s: len(v) for s, v in valid.items()},
                    views={s: View(s) for s in self.sources},
                    encoder=encoder,
                    fusion=fusion,
                    readouts={"text": torch.zeros(len(wanted), dtype=torch.long, device=self.device)},
                    targets=tuple(wanted),
                    layouts={s: Layout((masks[s].shape[1],), v) for s, v in valid.items()},
                    features={
                        requested: {s: _features(*kept[name, s], b, len(wanted), valid[s]) for s in self.sources}
                        for requested, name in names.items()
                    },
                    outputs={"logits": logits[b].detach()},
                )
            )
        return items

    @torch.no_grad()
    def predict(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Answer logits [B, answers]; items whose `visual_attention_mask` is all 0 see no image at all."""
        return self._run(inputs)

    def feature_modules(self) -> dict[str, list[nn.Module]]:
        """Feature name -> the modules whose outputs it is, text first."""
        encoder = self.model.lxmert.encoder
        return {"embedding": [self.model.lxmert.embeddings, encoder.visn_fc]}

    def encode_texts(self, texts: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of the language encoder [T, d] for every sequence of token ids [T]."""
        return lxmert_parts.encode_texts(self.model, texts)

    def embed_regions(self, regions: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Embedding and first projections [R, 4 d] for every pair of features [R, D] and boxes [R, 4]."""
        return lxmert_parts.embed_regions(self.model, regions)

    def encode_regions(self, embedded: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of the object-relationship encoder [R, d] for every set of embedded regions."""
        return lxmert_parts.encode_regions(self.model, embedded)

    def answer_parts(self, texts: Sequence[Tensor], regions: Sequence[Tensor]) -> Tensor:
        """Answer logits [B, answers] from encoded texts and regions."""
        return lxmert_parts.answer(self.model, texts, regions)

    # -- forward -----------------------------------------------------------------------------------------------

    def _run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        batch = {k: v.to(self.device) for k, v in inputs.items()}
        for key in ("visual_feats", "visual_pos"):
            batch[key] = batch[key].to(self.dtype)
        ids, limit = batch["input_ids"], self.model.config.max_position_embeddings
        if ids.ndim != 2:
            raise InputError(f"input_ids must be [B, T], got {list(ids.shape)}: add an axis to one question")
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
            logits: Tensor = self.model(**batch).question_answering_score
            require_finite(self.model, logits, inputs=batch, again=partial(self.model, **batch))
        return logits

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
    def _starting(self, leaves: Leaves, features: Collection[str]) -> Iterator[None]:
        """The graph begins at the embeddings; features are kept in `leaves`."""
        encoder = self.model.lxmert.encoder

        def start(stream: str) -> Any:
            """The graph begins at a stream's embedding, or the first attention would be a constant to autograd."""

            def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
                cut = output.detach().requires_grad_()
                for name in features:  # a stream without an encoder of its own offers its embedding for its output
                    leaves.setdefault(name, {})[stream] = cut
                return cut

            return hook

        def keep(stream: str) -> Any:
            def hook(module: nn.Module, args: Any, output: tuple[Tensor, ...]) -> None:
                leaves["encoder"][stream] = output[0]

            return hook

        handles = [
            self.model.lxmert.embeddings.register_forward_hook(start("text")),
            encoder.visn_fc.register_forward_hook(start("image")),
        ]
        if "encoder" in features:
            for stream, layers in (("text", encoder.layer), ("image", encoder.r_layers)):
                if len(layers):
                    handles.append(layers[-1].register_forward_hook(keep(stream)))
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
        self, by_step: Mapping[str, Sequence[tuple[Seen, Tensor | None]]], b: int, k: int, valid: Mapping[str, Tensor]
    ) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
        def group(name: str, query: str, source: str, call: int = 0) -> Group:
            """A group of one step, or of none where the answer does not depend on it (last cross layer)."""
            seen, gradient = by_step[name][call]
            if gradient is None:
                return ()
            wire = Wire(f"{name}.{query}-{source}", modules[name], query, source)
            return (step(wire, seen, gradient, b, k, valid=valid),)

        modules = dict(self._attention_modules())
        config = self.model.lxmert.encoder
        encoder = [group(f"language.{i}", "text", "text") for i in range(config.num_l_layers)]
        encoder += [group(f"vision.{i}", "image", "image") for i in range(config.num_r_layers)]
        fusion: list[Group] = []
        for i in range(config.num_x_layers):
            fusion.append(group(f"cross.{i}", "text", "image") + group(f"cross.{i}", "image", "text", call=1))
            fusion.append(group(f"cross.{i}.text", "text", "text") + group(f"cross.{i}.image", "image", "image"))
        return tuple(g for g in encoder if g), tuple(g for g in fusion if g)


def _features(activation: Tensor, gradient: Tensor | None, b: int, k: int, valid: Tensor) -> Features:
    assert gradient is not None
    return Features(activation[b, valid].detach(), gradient[:k, b, valid])


def load(
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    revision: str | None = None,
    *,
    answers: Sequence[str] | None = None,
) -> LxmertAdapter:
    """The LXMERT of a checkpoint; see `hetexp.load_model`.

    Args:
        answers: answer strings; by default the folder's `label2ans.json`, if there is one.

    Raises:
        CheckpointError: for a checkpoint or an answer list that does not fit.
        OSError: for a checkpoint that is not there.
    """
    revision = pinned(source, revision, REVISIONS)
    config = read_config(source, revision)
    expect_type(source, config, LxmertAdapter.name)
    model = load_weights(LxmertForQuestionAnswering, source, config, revision, dtype)
    folder = Path(source)
    tokenizer = None
    if not folder.is_dir() or (folder / "tokenizer_config.json").exists() or (folder / "vocab.txt").exists():
        with readable(f"the tokenizer of {source!r}"):
            tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS.get(source, source))
    answers = answers_of(source, answers, model.config.num_qa_labels)
    return LxmertAdapter(model.to(device), tokenizer, answers)
