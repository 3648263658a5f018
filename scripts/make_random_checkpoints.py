"""Random checkpoints of the paper's full size, and random data, in folders laid out as the public releases.

    python scripts/make_random_checkpoints.py --out random --images 200 --questions 100
    python run.py profile=paper +experiment=table1 data.root=random/coco model.checkpoint=random/detr
    python scripts/make_random_checkpoints.py --out random --images 0 --questions 0 --detectors rt_detr deformable_detr
    python run.py task=explain model=auto model.checkpoint=random/rt_detr image=photo.jpg

They prove that the paper profile runs through; their numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle
from skimage.measure import find_contours
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertTokenizer,
    DetrConfig,
    DetrForObjectDetection,
    LxmertConfig,
    LxmertForQuestionAnswering,
    PreTrainedTokenizerFast,
    ResNetConfig,
)
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hetexp.data.regions import Regions, write_tsv
from hetexp.data.synthetic.scenes import Scene, coco_categories, render_scene, scene_rng
from hetexp.models.owl import OwlDetector
from hetexp.models.registry import get_architecture

SIZES = ((640, 480), (480, 640), (640, 427), (500, 375), (333, 500))  # width, height as they occur in COCO
SHARPEN, SPREAD = 8.0, 1.2  # of the random DETR's attention and class logits
COCO_LABELS = 91  # DETR's label is COCO's category id, with gaps


def names() -> dict[int, str]:
    """Category names by COCO id, as far as the sprites go."""
    return {c["id"]: c["name"] for c in coco_categories()}


def write_detr(folder: Path) -> None:
    """DETR-R50 at full size; its class head is spread so that some queries pass p > 0.5, as a trained one's do."""
    torch.manual_seed(0)
    known = names()
    config = DetrConfig(
        backbone_config=ResNetConfig(out_features=["stage4"]),
        id2label={i: known.get(i, "N/A") for i in range(COCO_LABELS)},
        label2id={},
    )
    model = DetrForObjectDetection(config).eval()
    head = model.class_labels_classifier
    with torch.no_grad():
        # untrained queries are nearly alike: let them look at different places, and spread the class head over them
        model.model.query_position_embeddings.weight.normal_()
        for name, weight in model.model.named_parameters():
            if name.startswith("decoder.") and name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(SHARPEN)
        logits = head(model(torch.randn(1, 3, 800, 1066)).last_hidden_state[0])  # [queries, classes + 1]
        factor = SPREAD / logits.std(0).mean()
        head.bias.copy_(factor * (head.bias - logits.mean(0)))
        head.weight.mul_(factor)
        head.bias[[i for i in range(COCO_LABELS) if i not in known]] = -1e3  # never a label without a name
    model.save_pretrained(folder)
    DetrImageProcessorPil().save_pretrained(folder)


RESNET18 = ResNetConfig(
    depths=[2, 2, 2, 2], layer_type="basic", hidden_sizes=[64, 128, 256, 512], out_features=["stage4"]
)
# What the class's own defaults leave open, as the released checkpoints have it.
DETECTORS: dict[str, dict[str, Any]] = {
    "conditional_detr": {"backbone_config": ResNetConfig(out_features=["stage4"])},
    "deformable_detr": {"backbone_config": ResNetConfig(out_features=["stage2", "stage3", "stage4"])},
    "rt_detr": {},
    "rt_detr_v2": {},
    "d_fine": {},
    "deimv2": {},
    "lw_detr": {"projector_scale_factors": [1.0]},
    "rf_detr": {},
    "dab-detr": {"backbone_config": ResNetConfig(out_features=["stage4"])},
    "table-transformer": {"backbone_config": RESNET18},
    "yolos": {"image_size": [512, 864], "num_detection_tokens": 100},
    "owlvit": {},
    "owlv2": {"vision_config": {"image_size": 960, "patch_size": 16}},
}
FIXED_SIZE = {"lw_detr": 640, "rf_detr": 560}  # sides that their released image processors resize to
PASSING = 0.03  # share of the queries with a class probability above 0.5
SPREAD_HEAD = 20.0  # of class weights with a "no object"


def write_detector(folder: Path, name: str) -> None:
    """A detector at full size; of those with classes of their own, a few queries pass p > 0.5."""
    torch.manual_seed(0)
    adapter = get_architecture(name).load.__self__  # type: ignore[attr-defined]
    known = names()
    config = adapter.model_class.config_class(id2label=dict(enumerate(known.values())), label2id={}, **DETECTORS[name])
    model = adapter.model_class(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # untrained ones of some classes let nothing through
            torch.nn.init.ones_(module.weight)
    side = FIXED_SIZE.get(name, 640)
    if issubclass(adapter, OwlDetector):
        tokenizer(config.text_config.vocab_size).save_pretrained(folder)
        side = config.vision_config.image_size
    else:
        pass_some(model, len(known), adapter.has_no_object, side)
    model.save_pretrained(folder)
    size = {"size": {"height": side, "width": side}} if name in (*FIXED_SIZE, "owlvit", "owlv2") else {}
    adapter.processor_class(**size).save_pretrained(folder)


@torch.no_grad()
def pass_some(model: Any, classes: int, has_no_object: bool, side: int) -> None:
    """Shift the class heads so that a few queries of a random image pass."""
    width = classes + has_no_object
    heads = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == width]
    if has_no_object:
        for head in heads:  # one class must be more probable than all others together
            head.weight.mul_(SPREAD_HEAD)
    logits = model(torch.randn(1, 3, side, side)).logits[0]
    margin = logits[:, :classes].amax(-1) - (logits[:, -1] if has_no_object else 0)
    for head in heads:
        if has_no_object:
            head.bias[-1].add_(margin.quantile(1 - PASSING))
        else:
            head.bias.sub_(margin.quantile(1 - PASSING))


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Whole words; the end token has the largest number, as CLIP's does."""
    end = "<|endoftext|>"
    words = dict.fromkeys(["<|startoftext|>", *(w for name in names().values() for w in name.split())])
    known = {word: i + 1 for i, word in enumerate(words)} | {end: vocabulary - 1}
    backend = Tokenizer(models.WordLevel(known, unk_token=end))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single=f"<|startoftext|> $A {end}", special_tokens=[("<|startoftext|>", 1), (end, vocabulary - 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=end, unk_token=end)


def write_lxmert(folder: Path, answers: int) -> None:
    """LXMERT-VQA at full size with a word-piece vocabulary of its size."""
    torch.manual_seed(0)
    model = LxmertForQuestionAnswering(LxmertConfig(num_qa_labels=answers))
    model.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    words += [f"[unused{i}]" for i in range(model.config.vocab_size - len(words))]
    BertTokenizer(vocab={w: i for i, w in enumerate(words)}, do_lower_case=True).save_pretrained(folder)


WORDS = sorted({w for n in names().values() for w in n.split()} | set("is there a in the picture ? what color".split()))


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a mask as COCO's polygons."""
    padded = np.pad(mask.astype(float), 1)
    found = [np.flip(c - 1, axis=1).clip(0) for c in find_contours(padded, 0.5)]
    return [c.flatten().round(1).tolist() for c in found if len(c) >= 4]


def annotate(scene: Scene, image_id: int, first: int, crowd: bool, scale: tuple[float, float]) -> list[dict[str, Any]]:
    """COCO annotations of a scene resized by `scale`; the last object as a crowd in uncompressed RLE if asked."""
    out = []
    for number, thing in enumerate(scene.objects):
        height, width = (round(n * s) for n, s in zip(thing.mask.shape, scale[::-1], strict=True))
        mask = np.asarray(Image.fromarray(thing.mask).resize((width, height), Image.Resampling.NEAREST))
        code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        is_crowd = crowd and number == len(scene.objects) - 1
        segmentation: Any = polygons(mask)
        if is_crowd:
            flat = mask.flatten(order="F").astype(np.int8)
            edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
            segmentation = {"size": [height, width], "counts": np.diff(np.concatenate([[0], edges])).tolist()}
        out.append(
            {
                "id": first + number,
                "image_id": image_id,
                "category_id": thing.category_id,
                "iscrowd": int(is_crowd),
                "area": float(rle.area(code)),
                "bbox": rle.toBbox(code).tolist(),
                "segmentation": segmentation,
            }
        )
    return [a for a in out if a["segmentation"]]


def write_coco(root: Path, count: int) -> None:
    """val2017 as released: JPEGs (some grey), polygons, crowds, images without annotations."""
    (root / "val2017").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        width, height = SIZES[i % len(SIZES)]
        scene = render_scene(scene_rng(99, i), None)
        picture = Image.fromarray(scene.image).resize((width, height), Image.Resampling.BICUBIC)
        name = f"{i + 1:012d}.jpg"
        (picture.convert("L") if i % 25 == 7 else picture).save(root / "val2017" / name, quality=90)
        images.append({"id": i + 1, "file_name": name, "width": width, "height": height})
        if i % 30 != 11:
            scale = (width / scene.image.shape[1], height / scene.image.shape[0])
            annotations += annotate(scene, i + 1, len(annotations) + 1, i % 20 == 3, scale)
    categories = [{"id": i, "name": n, "supercategory": ""} for i, n in sorted(names().items())]
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")


def write_vqa(root: Path, count: int, answers: int) -> None:
    """Questions, answer list and obj36 features as released."""
    (root / "vqa").mkdir(parents=True, exist_ok=True)
    (root / "mscoco_imgfeat").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    labels = [f"answer {i}" for i in range(answers)]
    (root / "vqa" / "trainval_label2ans.json").write_text(json.dumps(labels), encoding="utf-8")
    kinds = sorted(names().values())
    images = [f"COCO_val2014_{i:012d}" for i in range(1, count // 3 + 2)]
    scores = (1, 0.6, 0.3)
    items = [
        {
            "question_id": 1000 + i,
            "img_id": images[i // 3],
            "sent": f"Is there a {kinds[i % len(kinds)]} in the picture?",
            "question_type": "is there a",
            "answer_type": "yes/no",
            "label": {labels[int(k)]: s for k, s in zip(rng.choice(answers, 3, replace=False), scores, strict=True)},
        }
        for i in range(count)
    ]
    (root / "vqa" / "valid.json").write_text(json.dumps(items), encoding="utf-8")

    def regions(img_id: str) -> tuple[str, Regions]:
        low = rng.random((36, 2)) * 0.6
        boxes = np.concatenate([low, low + 0.1 + rng.random((36, 2)) * 0.3], axis=1).astype(np.float32)
        features = np.abs(rng.normal(size=(36, 2048))).astype(np.float32)
        return img_id, Regions(features, boxes, 640, 480)

    write_tsv(root / "mscoco_imgfeat" / "val2014_obj36.tsv", (regions(i) for i in images))


def main() -> None:
    """Write what was asked for below --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--images", type=int, default=200, help="COCO images (0: no DETR part)")
    parser.add_argument("--questions", type=int, default=100, help="VQA questions (0: no LXMERT part)")
    parser.add_argument("--answers", type=int, default=3129, help="answers in the vocabulary")
    parser.add_argument("--detectors", nargs="*", default=[], choices=DETECTORS, help="detectors besides DETR")
    args = parser.parse_args()
    for name in args.detectors:
        write_detector(args.out / name, name)
    if args.images:
        write_detr(args.out / "detr")
        write_coco(args.out / "coco", args.images)
    if args.questions:
        write_lxmert(args.out / "lxmert", args.answers)
        write_vqa(args.out / "vqa", args.questions, args.answers)


if __name__ == "__main__":
    main()
