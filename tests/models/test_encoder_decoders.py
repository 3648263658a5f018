"""BART, Marian, T5, Whisper and TrOCR: every method against the dense oracle, padding, and generated sentences."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import oracle
import pytest
import torch
from compare import distance, tolerance
from mixture_oracle import run_mixture
from text_models import BART_SIZES, tiny_bart
from tiny import TOWER, lively, picture
from torch import Tensor
from transformers import (
    DeiTConfig,
    DeiTModel,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
    TrOCRConfig,
    TrOCRForCausalLM,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import hetexp
from hetexp.errors import CheckpointError, ConfigError, InputError
from hetexp.models.encoder_decoder import (
    BartAdapter,
    MarianAdapter,
    T5Adapter,
    VisionEncoderDecoderAdapter,
    WhisperAdapter,
)
from hetexp.models.writer import EncoderDecoder
from hetexp.targets import BoxSide, Difference, Logit

METHODS = [name for name in hetexp.METHODS if name in oracle.METHODS]
LAYERS, WORDS = TOWER["num_hidden_layers"], BART_SIZES["vocab_size"]


def marian() -> Any:
    torch.manual_seed(0)
    config = MarianConfig(**BART_SIZES, pad_token_id=1, decoder_start_token_id=1)
    return lively(MarianMTModel(config))


def t5() -> Any:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=WORDS,
        d_model=16,
        d_kv=6,
        d_ff=24,
        num_layers=LAYERS,
        num_heads=4,
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    return lively(T5ForConditionalGeneration(config))


def whisper() -> Any:
    torch.manual_seed(0)
    sizes = {key: value for key, value in BART_SIZES.items() if key != "max_position_embeddings"}
    config = WhisperConfig(**sizes, num_mel_bins=5, max_source_positions=9, max_target_positions=16, pad_token_id=1)
    config.decoder_start_token_id, config.eos_token_id, config.bos_token_id = 3, 2, 2
    return lively(WhisperForConditionalGeneration(config))


def trocr(encoder: str = "vit") -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**TOWER, "image_size": 32, "patch_size": 8, "attn_implementation": "eager"}
    seeing = ViTModel(ViTConfig(**sizes)) if encoder == "vit" else DeiTModel(DeiTConfig(**sizes))
    writing = TrOCRForCausalLM(
        TrOCRConfig(
            vocab_size=WORDS,
            d_model=12,
            decoder_layers=LAYERS,
            decoder_attention_heads=3,
            decoder_ffn_dim=24,
            max_position_embeddings=32,
            cross_attention_hidden_size=16,
            is_decoder=True,
            add_cross_attention=True,
        )
    )
    model = VisionEncoderDecoderModel(encoder=seeing, decoder=writing)
    model.config.decoder_start_token_id, model.config.pad_token_id = 2, 1
    return lively(model)


def words(seed: int, n: int) -> Tensor:
    return torch.randint(4, WORDS, (1, n), generator=torch.Generator().manual_seed(seed))


def read_text(seed: int = 0, n: int = 7) -> dict[str, Tensor]:
    return {"input_ids": words(seed, n)}


def read_audio(seed: int = 0, n: int = 7) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"input_features": torch.randn(1, 5, 18, generator=g, dtype=torch.float64)}


def read_image(seed: int = 0, n: int = 7) -> dict[str, Tensor]:
    return {"pixel_values": picture(32, 32, seed)}


@dataclass
class Case:
    build: Callable[[], Any]
    adapter: type[EncoderDecoder]
    source: str
    read: Callable[..., dict[str, Tensor]]
    first: Callable[[Any], tuple[Any, Any]]  # first layers of encoder and decoder


def bart_layers(model: Any) -> tuple[Any, Any]:
    return model.model.encoder.layers[0], model.model.decoder.layers[0]


def trocr_layers(model: Any) -> tuple[Any, Any]:
    return model.encoder.layers[0], model.decoder.model.decoder.layers[0]


CASES = {
    "bart": Case(tiny_bart, BartAdapter, "text", read_text, bart_layers),
    "marian": Case(marian, MarianAdapter, "text", read_text, bart_layers),
    "t5": Case(t5, T5Adapter, "text", read_text, lambda m: (m.encoder.block[0], m.decoder.block[0])),
    "whisper": Case(whisper, WhisperAdapter, "audio", read_audio, bart_layers),
    "trocr_vit": Case(trocr, VisionEncoderDecoderAdapter, "image", read_image, trocr_layers),
    "trocr_deit": Case(lambda: trocr("deit"), VisionEncoderDecoderAdapter, "image", read_image, trocr_layers),
}
PREFIX = words(5, 5)


def wanted(case: Case, model: Any, inputs: dict[str, Tensor], target: Logit) -> oracle.Run:
    """The oracle's run on the prefix alone that ends at the explained position."""
    assert target.query is not None
    n = target.query + 1
    links = [(case.source, case.source)] * LAYERS + [("target", "target"), ("target", case.source)] * LAYERS
    layers = dict(zip((case.source, "target"), case.first(model), strict=True))
    prefix = inputs["decoder_input_ids"][:, :n]

    def forward() -> Tensor:
        return target(model(**{**inputs, "decoder_input_ids": prefix}, use_cache=False).logits[0, -1])

    return run_mixture(forward, links, LAYERS, layers, "target", n - 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_method_equals_the_oracle(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    model, inputs = case.build(), {**case.read(), "decoder_input_ids": PREFIX}
    targets = [Logit(3 * t + 1, query=t) for t in (1, 3, 4)]
    before = model(**inputs).logits
    runs = [wanted(case, model, inputs, target) for target in targets]
    adapter = case.adapter(copy.deepcopy(model).to(dtype))
    found = hetexp.explain(adapter, inputs, METHODS, targets)
    for method in METHODS:
        whole = [oracle.METHODS[method](run) for run in runs]
        if case.source == "image":
            skipped = 2 if name == "trocr_deit" else 1
            assert found[method]["image"].shape == (3, 4, 4)
            want = torch.stack([one["image"][skipped:] for one in whole])
        else:
            want = torch.stack([one[case.source] for one in whole])
        assert float(want.abs().max()) > 0, method
        assert distance(found.tokens(method, case.source), want) <= tolerance(method, dtype), method
        for got, one in zip(found.tokens(method, "target"), whole, strict=True):
            n = len(one["target"])
            assert distance(got[None, :n], one["target"][None]) <= tolerance(method, dtype), method
            assert bool((got[n - 1 :] == 0).all())  # the explained token itself, and what follows it
    after = adapter.model(**adapter.placed(inputs)).logits
    assert torch.allclose(after.double(), before, atol=1e-11 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["bart", "t5", "whisper"])
def test_attention_implementations_agree(name: str, implementation: str) -> None:
    case = CASES[name]
    model, inputs = case.build(), {**case.read(), "decoder_input_ids": PREFIX}
    want = hetexp.explain(case.adapter(model), inputs, METHODS, Logit(2, query=3))
    other = copy.deepcopy(model)
    other.set_attn_implementation(implementation)
    found = hetexp.explain(case.adapter(other), inputs, METHODS, Logit(2, query=3))
    assert other.config._attn_implementation == implementation
    for method in METHODS:
        for source in (case.source, "target"):
            assert distance(found[method][source], want[method][source]) <= 1e-9, method


@pytest.mark.parametrize("name", CASES)
def test_a_padded_batch_equals_single_items(name: str) -> None:
    case = CASES[name]
    adapter = case.adapter(case.build())
    items = [{**case.read(i, n), "decoder_input_ids": words(9 + i, m)} for i, (n, m) in enumerate([(4, 5), (7, 3)])]
    targets: list[list[Any]] = [[Logit(query=2), Difference(3, 5, query=1)], [Logit(7)]]
    key = next(iter(items[0]))
    batch = {} if key == "input_ids" else {key: torch.cat([item[key] for item in items])}
    for key, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
        if key in batch or key not in items[0]:
            continue
        width = max(item[key].shape[1] for item in items)
        batch[key] = torch.full((2, width), 6)
        batch[mask] = torch.zeros(2, width, dtype=torch.long)
        for row, item in enumerate(items):
            batch[key][row, : item[key].shape[1]] = item[key][0]
            batch[mask][row, : item[key].shape[1]] = 1
    together = hetexp.explain(adapter, batch, METHODS, targets)
    for i, item in enumerate(items):
        alone = hetexp.explain(adapter, item, METHODS, targets[i])
        for method in METHODS:
            for source in adapter.sources:
                got = together.item(i)[method][source]
                assert distance(got, alone[method][source]) <= 1e-9, method
                whole = together[method][source][[row.item == i for row in together.rows]]
                assert bool((whole[:, got.shape[1] :] == 0).all())


@pytest.mark.parametrize("name", CASES)
def test_a_generated_sentence_equals_its_tokens_one_at_a_time(name: str) -> None:
    case = CASES[name]
    model, inputs = case.build(), case.read()
    adapter = case.adapter(model)
    found = hetexp.explain_generated(adapter, inputs, METHODS, max_new_tokens=4)
    ids = adapter.generate(inputs, 4)
    assert len(found.rows) == ids.shape[1] - 1
    for t in range(ids.shape[1] - 1):
        one = hetexp.explain(
            adapter, {**inputs, "decoder_input_ids": ids[:, : t + 1]}, METHODS, Logit(int(ids[0, t + 1]))
        )
        assert (found.rows[t].query, found.rows[t].target) == (t, one.rows[0].target)
        for method in METHODS:
            assert distance(found[method][case.source][t : t + 1], one[method][case.source]) <= 1e-9, method
            got = found[method]["target"][t : t + 1]
            assert distance(got[:, : t + 1], one[method]["target"]) <= 1e-9, method


def test_gradients_may_be_found_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = BartAdapter(tiny_bart())
    inputs = {"input_ids": words(1, 12).reshape(2, 6), "decoder_input_ids": PREFIX.repeat(2, 1)}
    targets = [[Logit(query=1), Logit(query=4)], [Logit(3, query=2)]]
    want = hetexp.explain(adapter, inputs, METHODS, targets)
    monkeypatch.setattr("hetexp.models.observed_model.GRADIENT_BUDGET", 1)
    found = hetexp.explain(adapter, inputs, METHODS, targets)
    for method in METHODS:
        for source in ("text", "target"):
            assert distance(found[method][source], want[method][source]) <= 1e-12, method


def test_without_a_prefix_the_first_token_is_explained() -> None:
    model = tiny_bart()
    found = hetexp.explain(BartAdapter(model), read_text(), ["ours_abs"])
    first = model(**read_text(), decoder_input_ids=torch.full((1, 1), model.config.decoder_start_token_id)).logits
    assert found.labels == [str(int(first[0, 0].argmax()))]
    assert found["ours_abs"]["target"].shape == (1, 1)
    assert float(found["ours_abs"]["text"].max()) > 0


def test_errors_leave_the_model_as_it_was() -> None:
    model = tiny_bart()
    adapter = BartAdapter(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    asks = [p.requires_grad for p in model.parameters()]
    inputs = {**read_text(), "decoder_input_ids": PREFIX}
    with pytest.raises(InputError, match="decoder position 9"):
        hetexp.explain(adapter, inputs, ["gae"], Logit(query=9))
    with pytest.raises(InputError, match="box"):
        hetexp.explain(adapter, inputs, ["gae"], BoxSide("top"))
    with pytest.raises(ConfigError, match="feature"):
        adapter.trace(inputs, [[Logit()]], features=["projection"])
    with pytest.raises(IndexError):
        hetexp.explain(adapter, {**inputs, "input_ids": torch.full((1, 3), WORDS + 5)}, ["gae"])
    assert model.config._attn_implementation == "eager"
    assert [p.requires_grad for p in model.parameters()] == asks
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_other_vision_encoder_decoders_are_refused() -> None:
    model = trocr()
    model.config.encoder.model_type = "swin"
    with pytest.raises(CheckpointError, match="swin"):
        VisionEncoderDecoderAdapter(model)


def test_a_model_without_tokenizer_says_so() -> None:
    with pytest.raises(ConfigError, match="processor"):
        BartAdapter(tiny_bart()).prepare("two words")
