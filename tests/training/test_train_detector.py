"""Training of detectors on cached features: groups of queries, checkpoints, metrics and options."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_detector
from architectures import ARCHITECTURES
from backbone_features import backbone_weights, cache_features, digest
from detection_metrics import precision_and_recall
from detector_trainer import QUERIES, Ready, Trainer, grouped_loss
from pretrain_backbone import batches, load_arrays
from pycocotools.coco import COCO
from transformers import DetrForObjectDetection

from hetexp.paths import asset

NAMES = sorted(ARCHITECTURES)
CPU = torch.device("cpu")
FEATURES = torch.randn(2, 128, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = [
    {"class_labels": torch.tensor([3, 5]), "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.4], [0.7, 0.6, 0.3, 0.2]])},
    {"class_labels": torch.tensor([7]), "boxes": torch.tensor([[0.5, 0.4, 0.6, 0.4]])},
]


@pytest.fixture(scope="module")
def backbone() -> dict[str, torch.Tensor]:
    return backbone_weights(Path(asset("detr")))


def options(**changed: Any) -> argparse.Namespace:
    settings = {"minutes": 1.0, "groups": 2, "batch": 2, "lr": 1e-3, "no_object": None, "constant": 0.6}
    return argparse.Namespace(**(settings | changed))


def trainer_of(name: str, backbone: dict[str, torch.Tensor], **changed: Any) -> Trainer:
    torch.manual_seed(0)
    architecture = ARCHITECTURES[name]
    return Trainer(architecture, architecture.untrained(backbone), options(**changed), CPU)


@pytest.mark.parametrize("name", NAMES)
def test_groups_do_not_see_each_other(name, backbone):
    """The first group among others predicts what it predicts alone, as a plain detector."""
    trainer = trainer_of(name, backbone, groups=3)
    plain = trainer.result()
    plain.model.backbone = Ready()
    with torch.no_grad():
        together, alone = trainer.model.eval()(FEATURES), plain(FEATURES)
    count = alone.logits.shape[1]
    assert together.logits.shape[1] == 3 * count
    torch.testing.assert_close(together.logits[:, :count], alone.logits)
    torch.testing.assert_close(together.pred_boxes[:, :count], alone.pred_boxes)


@pytest.mark.parametrize("name", NAMES)
def test_loss_of_groups_is_the_mean_of_their_losses(name, backbone):
    architecture = ARCHITECTURES[name]
    model = architecture.untrained(backbone)
    layers, queries = model.config.decoder_layers, model.config.num_queries
    generator = torch.Generator().manual_seed(1)
    classes = torch.randn(layers, 2, 2 * queries, 24 + architecture.has_no_object, generator=generator)
    boxes = torch.rand(layers, 2, 2 * queries, 4, generator=generator)

    def loss_of(loss: Any, part: slice) -> float:
        logits, where = classes[:, :, part], boxes[:, :, part]
        return loss(logits[-1], LABELS, CPU, where[-1], model.config, logits, where)[0].item()

    library = model.loss_function
    each = [loss_of(library, slice(i * queries, (i + 1) * queries)) for i in range(2)]
    assert each[0] != pytest.approx(each[1], rel=1e-3)
    assert loss_of(grouped_loss(library, queries), slice(None)) == pytest.approx(sum(each) / 2, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_training_learns_a_batch_and_goes_on_from_its_checkpoint(name, backbone, tmp_path):
    trainer = trainer_of(name, backbone)
    first = trainer.update(FEATURES, LABELS, 0.0)["loss"]
    for _ in range(19):
        last = trainer.update(FEATURES, LABELS, 0.0)["loss"]
    assert last < first
    trainer.seconds = 12.5
    trainer.save(tmp_path / "state.safetensors")

    again = trainer_of(name, backbone)
    again.load(tmp_path / "state.safetensors")
    assert (again.step, again.images, again.seconds, again.parts) == (20, 40, 12.5, trainer.parts)
    assert again.update(FEATURES, LABELS, 0.5) == trainer.update(FEATURES, LABELS, 0.5)
    for key, value in trainer.average.items():
        torch.testing.assert_close(again.average[key], value)


def test_of_a_checkpoints_groups_the_first_stay(backbone, tmp_path):
    trainer = trainer_of("deformable_detr", backbone, groups=2)
    trainer.update(FEATURES, LABELS, 0.0)
    trainer.save(tmp_path / "state.safetensors")
    fewer = trainer_of("deformable_detr", backbone, groups=1)
    fewer.load(tmp_path / "state.safetensors")
    torch.testing.assert_close(fewer.model.state_dict()[QUERIES], trainer.model.state_dict()[QUERIES][:16])
    assert [part["groups"] for part in fewer.parts] == [2, 1]
    assert fewer.parts[0]["stopped"] == 0
    assert "stopped" not in fewer.parts[1]
    with pytest.raises(SystemExit, match="holds fewer groups of queries than --groups 4"):
        trainer_of("deformable_detr", backbone, groups=4).load(tmp_path / "state.safetensors")


def test_warm_start(backbone):
    detr = DetrForObjectDetection.from_pretrained(asset("detr"))
    trainer = trainer_of("conditional_detr", backbone)
    trainer.warm_start("a DETR", detr.state_dict(), train_detector.WARM)
    taken = trainer.result().state_dict()
    names = [name for name in taken if name.startswith(train_detector.WARM)]
    assert len(names) > 30
    for name in names:
        torch.testing.assert_close(taken[name], detr.state_dict()[name])
    with pytest.raises(SystemExit, match=r"a DETR cannot give model.encoder., model.input_projection.: it lacks"):
        trainer_of("deformable_detr", backbone).warm_start("a DETR", detr.state_dict(), train_detector.WARM)


@pytest.mark.parametrize("name", ["conditional_detr", "deformable_detr"])
def test_untrained_sigmoid_detectors_find_little(name, backbone):
    """Focal loss diverges from an even start, so the publications begin with a probability of 0.01."""
    trainer = trainer_of(name, backbone)
    with torch.no_grad():
        out = trainer.model(FEATURES)
    probabilities = ARCHITECTURES[name].probabilities(out.logits)
    assert probabilities.shape[-1] == 24
    assert probabilities.mean().item() == pytest.approx(0.01, rel=0.2)
    torch.testing.assert_close(out.pred_boxes[..., 2:], torch.full_like(out.pred_boxes[..., 2:], 0.27))


def test_features_are_those_of_the_detectors_own_backbone(backbone, tmp_path):
    arrays = load_arrays(tmp_path, 3, 9, 1)
    features = cache_features(backbone, arrays, tmp_path, CPU)
    detr = DetrForObjectDetection.from_pretrained(asset("detr")).eval()
    for (grid, flip), maps in features.items():
        pixels = train_detector_pixels(arrays[grid].images, flip)
        with torch.no_grad():
            own = detr.model.backbone(pixels, torch.ones(pixels.shape[:1] + pixels.shape[2:]))[-1][0]
        difference = (torch.from_numpy(np.array(maps)).float() - own).abs().max() / own.abs().max()
        assert difference < 0.03  # bfloat16
    assert len(features) == 2 * len(arrays)
    assert all(digest(backbone) in file.name for file in tmp_path.glob("features_*"))
    assert next(batches(arrays, 2, np.random.default_rng(0)))[0] in arrays


def train_detector_pixels(images: np.ndarray, flip: bool) -> torch.Tensor:
    """Network input as the image processor makes it of images that have their final size."""
    processor = ARCHITECTURES["detr"].image_processor()
    turned = images[:, :, ::-1] if flip else images
    return processor(images=list(turned), return_tensors="pt", do_resize=False)["pixel_values"]


def test_mirrored_labels():
    arrays = train_detector.TrainingArrays(
        np.zeros((1, 4, 4, 3), np.uint8),
        np.array([[2, -1]], np.int8),
        np.array([[[0.2, 0.4, 0.1, 0.3], [0, 0, 0, 0]]], np.float32),
        np.zeros((1, 1, 1), np.int8),
    )
    plain, mirrored = (train_detector.labels_of(arrays, np.array([0]), flip, CPU)[0] for flip in (False, True))
    assert plain["class_labels"].tolist() == mirrored["class_labels"].tolist() == [2]
    torch.testing.assert_close(plain["boxes"], torch.tensor([[0.2, 0.4, 0.1, 0.3]]))
    torch.testing.assert_close(mirrored["boxes"], torch.tensor([[0.8, 0.4, 0.1, 0.3]]))


def test_precision_and_recall(capsys):
    coco = COCO()
    objects = [([0, 0, 10, 10], 1), ([20, 20, 10, 10], 2)]
    coco.dataset = {
        "images": [{"id": 1}],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [
            {"id": i, "image_id": 1, "bbox": box, "category_id": c, "area": 100, "iscrowd": 0}
            for i, (box, c) in enumerate(objects, 1)
        ],
    }
    coco.createIndex()
    found = [([0, 0, 10, 10], 1, 0.9), ([0, 0, 10, 9], 1, 0.8), ([20, 20, 10, 10], 1, 0.7), ([20, 20, 10, 10], 2, 0.4)]
    results = [{"image_id": 1, "bbox": box, "category_id": c, "score": s} for box, c, s in found]
    # a second detection of an object is wrong, and so is one of another class
    assert precision_and_recall(coco, [1], results, 0.5) == pytest.approx((1 / 3, 1 / 2))
    assert precision_and_recall(coco, [1], results, 0.3) == pytest.approx((2 / 4, 1))
    assert precision_and_recall(coco, [1], results, 0.95) == (0, 0)


def parsed(monkeypatch: pytest.MonkeyPatch, *words: str) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["train_detector.py", *words])
    return train_detector.parse()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--work {work}", "training needs --architecture and --work"),
        ("--work {work} --architecture detr", "holds no backbone.safetensors: run scripts/training/pretrain_backbone"),
        ("--work {work} --architecture deformable_detr --backbone b --no-object 0.4", "has no no-object class"),
        ("--work {work} --architecture detr --backbone b --minutes 0", "--minutes 0 must be a positive number"),
        ("--work {work} --architecture detr --backbone b --resume", "detr.safetensors does not exist: leave out"),
        ("--work {work} --architecture detr --backbone b --resume --warm-start b", "leave out --warm-start"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parsed(monkeypatch, *words.format(work=tmp_path).split())
    assert message in capsys.readouterr().err


def test_a_checkpoint_is_not_overwritten_by_accident(monkeypatch, tmp_path, capsys):
    (tmp_path / "detr.safetensors").touch()
    words = ["--work", str(tmp_path), "--architecture", "detr", "--backbone", "b"]
    with pytest.raises(SystemExit):
        parsed(monkeypatch, *words)
    assert "exists: add --resume to go on from it" in capsys.readouterr().err
    args = parsed(monkeypatch, *words, "--resume")
    assert args.no_object == 0.15
    assert args.out == Path(asset("detr"))


def test_training_installs_a_detector_with_its_card(monkeypatch, tmp_path, capsys):
    """A whole run without steps: what it installs is measured as it is stored, and its card says how it was made."""
    scenes = tmp_path / "val"
    (scenes / "images").mkdir(parents=True)
    known = json.loads(Path(asset("scenes"), "val", "annotations.json").read_text(encoding="utf-8"))
    known["images"] = known["images"][:1]
    known["annotations"] = [a for a in known["annotations"] if a["image_id"] == known["images"][0]["id"]]
    (scenes / "annotations.json").write_text(json.dumps(known), encoding="utf-8")
    name = known["images"][0]["file_name"]
    (scenes / "images" / name).symlink_to(Path(asset("scenes"), "val", "images", name))
    words = f"--architecture conditional_detr --work {tmp_path} --backbone {asset('detr')} --warm-start {asset('detr')}"
    words += f" --val {scenes} --out {tmp_path / 'out'} --scenes 9 --batch 3 --minutes 1e-9 --half"
    monkeypatch.setattr(sys, "argv", ["train_detector.py", *words.split()])
    train_detector.main()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"--architecture conditional_detr --work WORK --scenes 9 --seed 7 --backbone {asset('detr')}" in card
    assert f"--minutes 1e-09 --groups 3 --batch 3 --lr 0.0005 --warm-start {asset('detr')} --half" in card
    assert "Weights are stored in float16" in " ".join(card.split())
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["dtype"] == "float16"
    measured = train_detector.measure(tmp_path / "out", scenes, CPU)
    assert f"| box AP50, % | {measured['AP50']:.1f} |" in card
