"""OWL-ViT and OWLv2: every method against the dense oracle of each tower, batches, padding, texts, and whole runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from compare import distance, tolerance
from mixture_oracle import run_mixture
from own_checkpoints import category_names, check_photograph, check_tables
from tiny import TOWER, lively, picture
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    Owlv2Config,
    Owlv2ForObjectDetection,
    OwlViTConfig,
    OwlViTForObjectDetection,
    PreTrainedTokenizerFast,
)

import hetexp
from hetexp.attribution.attribute import attribute, build_methods, observe
from hetexp.errors import ConfigError, InputError
from hetexp.models import observed_detector
from hetexp.models.observe import share
from hetexp.models.owl import OwlDetector, Owlv2Adapter, OwlViTAdapter
from hetexp.paths import asset
from hetexp.targets import BoxSide, Difference, Logit

METHODS = [name for name in hetexp.METHODS if name in oracle.METHODS]
LAYERS, END, SIDE, PATCH = TOWER["num_hidden_layers"], 29, 32, 8
TEXT: dict[str, Any] = {**TOWER, "vocab_size": 30, "max_position_embeddings": 12}
VISION: dict[str, Any] = {**TOWER, "image_size": SIDE, "patch_size": PATCH}
KINDS = [
    (OwlViTConfig, OwlViTForObjectDetection, OwlViTAdapter),
    (Owlv2Config, Owlv2ForObjectDetection, Owlv2Adapter),
]


def build(kind: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = kind[0](text_config=TEXT, vision_config=VISION, projection_dim=16, attn_implementation="eager")
    return lively(kind[1](config), seed)


@pytest.fixture(params=KINDS, ids=["owlvit", "owlv2"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def inputs_of(images: int = 1) -> dict[str, Tensor]:
    """Three texts for each image, of 6, 4 and 5 tokens."""
    ids = torch.randint(2, END, (3, 6), generator=torch.Generator().manual_seed(3))
    mask = torch.ones(3, 6).long()
    for row, n in enumerate((6, 4, 5)):
        ids[row, n - 1], ids[row, n:], mask[row, n:] = END, 0, 0
    pixels = torch.cat([picture(SIDE, SIDE, i) for i in range(images)])
    return {"input_ids": ids.repeat(images, 1), "attention_mask": mask.repeat(images, 1), "pixel_values": pixels}


def towers(model: Any, inputs: dict[str, Tensor], target: Any, text: int, of: str = "logits") -> dict[str, oracle.Run]:
    """A run read from each tower, with the target's text alone and without its padding."""
    end = int(inputs["input_ids"][text].argmax())
    alone = {"input_ids": inputs["input_ids"][[text], : end + 1], "pixel_values": inputs["pixel_values"][:1]}
    parts = model.base_model
    layers = {"image": parts.vision_model.encoder.layers[0], "text": parts.text_model.encoder.layers[0]}
    order = [("image", "image")] * LAYERS + [("text", "text")] * LAYERS

    def y() -> Tensor:
        out = model(**alone)
        row = {"logits": out.logits, "box": out.pred_boxes}[of][0, target.query]
        return row[0] if of == "logits" else target(row)

    runs = {}
    for stream, token in (("image", 1 + target.query), ("text", end)):
        run = run_mixture(y, order, 0, {stream: layers[stream]}, stream, token)
        run.encoder = [step for group in run.fusion for step in group if step.query == stream]
        run.fusion, run.sizes = [], {stream: run.sizes[stream]}
        runs[stream] = run
    return runs


def expected(method: str, runs: list[dict[str, oracle.Run]], width: int = 6) -> dict[str, Tensor]:
    """Relevance of the patches and of the texts' tokens, the explained text's padding 0."""
    image = torch.stack([oracle.METHODS[method](run["image"])["image"] for run in runs])[:, 1:]
    words = [oracle.METHODS[method](run["text"])["text"] for run in runs]
    return {"image": image, "text": torch.stack([torch.nn.functional.pad(w, (0, width - len(w))) for w in words])}


TARGETS = [Logit(2, query=1), Logit(2, query=0), Logit(0, query=9), Logit(1, query=9), Logit(2, query=9)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_every_method_equals_the_oracle(kind: Any, dtype: torch.dtype) -> None:
    model, inputs = build(kind), inputs_of()
    before = model(**inputs)
    runs = [towers(model, inputs, target, int(target.index or 0)) for target in TARGETS]
    adapter = kind[2](copy.deepcopy(model).to(dtype))
    found = hetexp.explain(adapter, inputs, METHODS, TARGETS)
    assert [row.query for row in found.rows] == [1, 0, 9, 9, 9]
    for method in METHODS:
        for source, want in expected(method, runs).items():
            assert bool((want != 0).any()), (method, source)
            assert distance(found.tokens(method, source), want) <= tolerance(method, dtype), (method, source)
        assert found[method]["image"].shape == (len(TARGETS), SIDE // PATCH, SIDE // PATCH)
    assert torch.equal(model(**inputs).logits, before.logits)


def test_predictions_are_the_library_s(kind: Any) -> None:
    model, inputs = build(kind), inputs_of(2)
    inputs["input_ids"][5] = 0  # the second image has two texts
    own = model(**inputs)
    for b, found in enumerate(kind[2](model).detect(inputs)):
        seen = found.logits > torch.finfo(torch.float32).min
        assert torch.allclose(found.logits[seen].float(), own.logits[b][seen], rtol=1e-6, atol=1e-6)
        assert torch.allclose(found.scores.float(), own.logits[b].sigmoid().amax(-1), atol=1e-6)
        assert torch.allclose(found.boxes, own.pred_boxes[b], rtol=0, atol=1e-11)


def test_box_targets_equal_the_oracle_and_read_no_text(kind: Any) -> None:
    model, inputs = build(kind), inputs_of()
    target = BoxSide("left", query=5)
    found = hetexp.explain(kind[2](model), inputs, METHODS, target)
    runs = [towers(model, inputs, target, 0, "box")]
    for method in METHODS:
        assert distance(found.tokens(method, "image"), expected(method, runs)["image"]) <= 1e-9, method
    assert bool((found["ours_abs"]["text"] == 0).all())


@pytest.mark.parametrize("budget", [None, 1])
def test_a_batch_equals_single_images(kind: Any, budget: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where gradients are found group by group."""
    adapter, inputs = kind[2](build(kind)), inputs_of(2)
    methods = build_methods([*METHODS, "cp_lrp", "input_x_gradient"])
    inputs["input_ids"][3:] = inputs["input_ids"][[4, 5, 3]]
    inputs["attention_mask"][3:] = inputs["attention_mask"][[4, 5, 3]]
    targets = [[Logit(2, q) for q in range(2)] + [Logit(0, 2)], [Logit(1, 3), Logit(2, 4)]]
    alone = []
    for b in range(2):
        one = {name: share(x, 2, [b]) for name, x in inputs.items()}
        alone.append(attribute(observe(adapter, one, [targets[b]], methods)[0], methods))
    if budget is not None:
        monkeypatch.setattr(observed_detector, "GRADIENT_BUDGET", budget)
    for trace, want in zip(observe(adapter, inputs, targets, methods), alone, strict=True):
        got = attribute(trace, methods)
        for method in methods:
            for source in ("image", "text"):
                assert distance(got[method][source], want[method][source]) <= 1e-9, (method, source)


def test_padding_of_owlv2_is_no_part_of_the_image() -> None:
    """24 of 32 rows are the image's: the model reads black below, boxes and maps belong to the image."""
    model, inputs = build(KINDS[1]), inputs_of()
    adapter = Owlv2Adapter(model)
    pixels = inputs["pixel_values"][:, :, :24]
    square = adapter.squared(pixels)
    mean, std = torch.tensor([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]]).double()
    assert torch.allclose(square[0, :, 31, 31], -mean / std, atol=1e-6)
    targets = [Logit(1, query=2), Logit(0, query=7)]
    got = hetexp.explain(adapter, {**inputs, "pixel_values": pixels}, METHODS, targets)
    want = hetexp.explain(adapter, {**inputs, "pixel_values": square}, METHODS, targets)
    for method in METHODS:
        assert got[method]["image"].shape == (2, 3, 4)
        assert distance(got[method]["image"], want[method]["image"][:, :3]) <= 1e-9, method
    own, full = (
        adapter.detect({**inputs, "pixel_values": pixels})[0],
        adapter.detect({**inputs, "pixel_values": square}),
    )
    assert torch.allclose(own.boxes[:, 1], full[0].boxes[:, 1] * 32 / 24)
    assert torch.allclose(own.boxes[:, 0], full[0].boxes[:, 0])


def test_what_does_not_fit_is_refused(kind: Any) -> None:
    adapter, inputs = kind[2](build(kind)), inputs_of()
    with pytest.raises(InputError, match="reads 2 texts: explain the score of one"):
        hetexp.explain(adapter, inputs, ["gae"], Difference(0, 1, query=2))
    with pytest.raises(InputError, match="pixel_values are 16 x 16, this model reads 32 x 32"):
        hetexp.explain(adapter, {**inputs, "pixel_values": picture(16, 16)}, ["gae"], Logit(0, query=2))
    with pytest.raises(ConfigError, match="detects what texts name"):
        adapter.collate([picture(SIDE, SIDE)[0]])
    with pytest.raises(InputError, match="queries 0 to 15"):
        hetexp.explain(adapter, inputs, ["gae"], Logit(0, query=16))


@pytest.fixture
def checkpoint(kind: Any, tmp_path: Path) -> Path:
    """A small random one whose tokenizer knows the embedded scenes' classes."""
    folder = tmp_path / "checkpoint"
    build(kind, 5).float().save_pretrained(folder)
    kind[2].processor_class(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    words = ["<pad>", "<s>", *(w for name in category_names() for w in name.split()), "a", "of"][:END]
    known = {word: i for i, word in enumerate(dict.fromkeys(words))}
    known["</s>"] = END
    backend = Tokenizer(models.WordLevel(known, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", 1), ("</s>", END)]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="a"
    ).save_pretrained(folder)
    return folder


def test_tables_by_checkpoint_and_texts(checkpoint: Path, tmp_path: Path) -> None:
    texts = f"model.texts=[{','.join(category_names())}]"
    check_tables(checkpoint, tmp_path, texts, "model.score_threshold=0.5")


def test_explaining_a_photograph_by_checkpoint_and_texts(checkpoint: Path, tmp_path: Path) -> None:
    check_photograph(checkpoint, tmp_path, "model.texts={vessel: a dog of a cow, cat: cat}")


def test_texts_are_an_option_of_open_vocabularies_alone(tmp_path: Path, checkpoint: Path) -> None:
    adapter: OwlDetector = hetexp.load_model(checkpoint, texts=["cat", "a dog"])
    assert adapter.labels == {0: "cat", 1: "a dog"}
    with pytest.raises(ConfigError, match="'detr' has no option texts"):
        hetexp.load_model("detr", asset("detr"), texts=["cat"])
    adapter.texts["cat"] = "a " * 20
    with pytest.raises(InputError, match="has 22 tokens, this model reads 12: shorten it"):
        adapter.tokenized()
