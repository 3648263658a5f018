"""Where the public data lie, how large they are, and where their files go below the data root.

Sizes and hashes are as published by their makers or as stated in public code that reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """Files that a source leaves.

    Attributes:
        folder: where they go, relative to the data root.
        pattern: which files of the archive, by base name; the file's own name for a source that is no archive.
        count: how many there must be.
    """

    folder: str
    pattern: str
    count: int = 1


@dataclass(frozen=True)
class Source:
    """One public file.

    Attributes:
        name: what receipts and reports call it.
        url: its address.
        products: the files it leaves below the data root.
        about: what it is, for people.
        size: bytes, where published.
        digest: ``md5:...``, ``sha256:...`` or ``sha256-prefix:...``, None if none is published.
    """

    name: str
    url: str
    products: tuple[Product, ...]
    about: str
    size: int | None = None
    digest: str | None = None

    @property
    def file_name(self) -> str:
        """Last part of the address."""
        return self.url.rsplit("/", 1)[1]

    @property
    def is_archive(self) -> bool:
        """Whether the file is to be extracted."""
        return self.file_name.endswith(".zip")


_COCO = "http://images.cocodataset.org"
_VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_LXMERT = "https://nlp.cs.unc.edu/data/lxmert_data"

_ALL = (
    Source(
        "coco_val2017_images",
        f"{_COCO}/zips/val2017.zip",
        (Product("val2017", "*.jpg", 5000),),
        "COCO val2017 images",
        815_585_330,
        "md5:442b8da7639aecaf257c1dceb8ba8c80",
    ),
    Source(
        "coco_annotations_2017",
        f"{_COCO}/annotations/annotations_trainval2017.zip",
        (Product("annotations", "instances_val2017.json"),),
        "COCO 2017 annotations",
        252_907_541,
        "md5:f4bbac642086de4f52a3fdda2de5fa2c",
    ),
    Source(
        "coco_val2014_images",
        f"{_COCO}/zips/val2014.zip",
        (Product("val2014", "*.jpg", 40_504),),
        "COCO val2014 images (for figures only)",
        None,
        "md5:a3d79f5ed8d289b7a7554ce06a5782b3",
    ),
    Source(
        "vqa_v2_questions",
        f"{_VQA}/v2_Questions_Val_mscoco.zip",
        (Product("vqa", "v2_OpenEnded_mscoco_val2014_questions.json"),),
        "VQA v2 validation questions",
        None,
        "sha256:e71f6c5c3e97a51d050f28243e262b28cd0c48d11a6b4632d769d30d3f93222a",
    ),
    Source(
        "vqa_v2_annotations",
        f"{_VQA}/v2_Annotations_Val_mscoco.zip",
        (Product("vqa", "v2_mscoco_val2014_annotations.json"),),
        "VQA v2 validation annotations",
        None,
        "sha256:0caae7c8d1dafd852727f5ac046bc1efca9b72026bd6ffa34fc489f3a7b3291e",
    ),
    Source(
        "lxmert_answers",
        "https://raw.githubusercontent.com/airsplay/lxmert/master/data/vqa/trainval_label2ans.json",
        (Product("vqa", "trainval_label2ans.json"),),
        "LXMERT's 3,129 answers",
        46_668,
        "md5:1166604b5dc23aa3bcd8a1024d29146b",
    ),
    Source(
        "lxmert_valid",
        f"{_LXMERT}/vqa/valid.json",
        (Product("vqa", "valid.json"),),
        "VQA v2 validation questions in LXMERT's form",
    ),
    Source(
        "lxmert_minival",
        f"{_LXMERT}/vqa/minival.json",
        (Product("vqa", "minival.json"),),
        "LXMERT's small validation part",
    ),
    Source(
        "lxmert_nominival",
        f"{_LXMERT}/vqa/nominival.json",
        (Product("vqa", "nominival.json"),),
        "LXMERT's remaining validation part",
    ),
    Source(
        "val2014_obj36",
        f"{_LXMERT}/mscoco_imgfeat/val2014_obj36.zip",
        (Product("mscoco_imgfeat", "val2014_obj36.tsv"),),
        "bottom-up-attention features of val2014, 36 regions an image (about 8 GB)",
    ),
    Source(
        "detr_r50",
        "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth",
        (Product("checkpoints", "detr-r50-e632da11.pth"),),
        "DETR R50 as released by its authors (159 MB)",
        None,
        "sha256-prefix:e632da11",
    ),
)

SOURCES: Mapping[str, Source] = {source.name: source for source in _ALL}

# What an experiment's data need; images that only figures need come last.
DOWNLOADS: Mapping[str, tuple[str, ...]] = {
    "coco_val2017": ("coco_annotations_2017", "coco_val2017_images"),
    "vqa_v2": ("lxmert_answers", "vqa_v2_questions", "vqa_v2_annotations", "lxmert_valid", "val2014_obj36"),
    "vqa_v2_images": ("coco_val2014_images",),
    "lxmert_splits": ("lxmert_minival", "lxmert_nominival"),
    "detr_r50": ("detr_r50",),
}
