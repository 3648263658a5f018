"""Load checkpoints from a local folder or the hub, and refuse those that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DetrForObjectDetection,
    LxmertForQuestionAnswering,
    PreTrainedModel,
)
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.utils import logging as hf_logging

from hetexp.errors import CheckpointError, ConfigError
from hetexp.models.detr import DetrAdapter
from hetexp.models.fair import backbone_renames, dilate, load_fair, native_backbone, some
from hetexp.models.lxmert import LxmertAdapter

# Revisions known to carry safetensors that need no timm.
REVISIONS = {
    "facebook/detr-resnet-50": "no_timm",
    "facebook/detr-resnet-101": "no_timm",
    "unc-nlp/lxmert-vqa-uncased": "c66ce30",
}
# The VQA checkpoint was published without tokenizer files.
TOKENIZERS = {"unc-nlp/lxmert-vqa-uncased": "unc-nlp/lxmert-base-uncased"}

AnyAdapter = DetrAdapter | LxmertAdapter


def load_model(
    name: str,
    checkpoint: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    revision: str | None = None,
    answers: list[str] | None = None,
) -> AnyAdapter:
    """Load a model and wrap it in its adapter.

    Args:
        name: "detr" or "lxmert".
        checkpoint: folder written by `save_pretrained`, a hub id, or DETR's original `.pth` file.
        device: where the model runs, e.g. "cpu", "cuda".
        dtype: floating type of weights and attribution; float64 works throughout.
        revision: hub revision; known checkpoints have a pinned default.
        answers: LXMERT's answer strings; default the folder's `label2ans.json` if there is one.

    Raises:
        ConfigError: for an unknown model name.
        CheckpointError: for a checkpoint that is missing, unreadable, or of another architecture.
    """
    if name not in LOADERS:
        raise ConfigError(f"unknown model {name!r}. Available models: {', '.join(LOADERS)}")
    source = str(checkpoint)
    folder = Path(source)
    original = name == "detr" and folder.suffix in (".pth", ".pt") and folder.is_file()
    is_path = folder.exists() or source.count("/") != 1 or source.startswith((".", "/", "~"))
    if is_path and not (folder.is_dir() or original):
        raise CheckpointError(
            f"checkpoint {source!r} is no folder: give a folder written by save_pretrained, or a hub id like "
            "facebook/detr-resnet-50, or for model=detr an original .pth file"
        )
    revision = None if folder.is_dir() else revision or REVISIONS.get(source)
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        return LOADERS[name](source, revision, device, dtype, answers)
    except OSError as error:
        raise CheckpointError(f"cannot load {name} from {source!r}: {error}") from error
    finally:
        hf_logging.set_verbosity(verbosity)


def _weights(
    kind: type[PreTrainedModel], model_type: str, source: str, revision: str | None, dtype: torch.dtype
) -> Any:
    """The model, after checking that every weight it needs was in the checkpoint and fits."""
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
    except ValueError as error:
        raise CheckpointError(f"{source!r} holds no usable config.json: {error}") from error
    if config.model_type != model_type:
        raise CheckpointError(
            f"{source!r} is a {config.model_type!r} checkpoint, expected {model_type!r}: choose the matching model="
        )
    renames = None
    if model_type == "detr" and config.backbone_config.model_type == "timm_backbone":
        config = native_backbone(config)
        renames = backbone_renames(r"(?:model\.)?backbone\.(?:conv_encoder\.)?model\.")
    try:
        model, info = kind.from_pretrained(
            source,
            config=config,
            key_mapping=renames,
            revision=revision,
            dtype=dtype,
            attn_implementation="eager",
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are named below
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, ImportError) as error:
        raise CheckpointError(f"{source!r} does not fit {kind.__name__}: {error}") from error
    except Exception as error:  # safetensors raises its own class for a damaged file
        if type(error).__module__.startswith("safetensors"):
            raise CheckpointError(f"weights in {source!r} are damaged: {error}") from error
        raise
    faults = [f"missing {k}" for k in sorted(info["missing_keys"])]
    for key, found, wanted in sorted(info["mismatched_keys"]):
        faults.append(f"{key} has shape {list(found)}, expected {list(wanted)}")
    if faults:
        raise CheckpointError(f"{source!r} does not fit {kind.__name__}: {some(faults)}")
    return model


def _load_detr(source: str, revision: str | None, device: Any, dtype: torch.dtype, answers: Any) -> DetrAdapter:
    processor: DetrImageProcessorPil | None
    if Path(source).is_file():
        model, processor = load_fair(Path(source), dtype), DetrImageProcessorPil()
    else:
        model = _weights(DetrForObjectDetection, "detr", source, revision, dtype)
        try:
            processor = DetrImageProcessorPil.from_pretrained(source, revision=revision)
        except OSError:  # a bare checkpoint is enough to explain tensors
            processor = None
    if model.config.dilation:
        dilate(model)
    return DetrAdapter(model.to(device), processor)


def _load_lxmert(source: str, revision: str | None, device: Any, dtype: torch.dtype, answers: Any) -> LxmertAdapter:
    model = _weights(LxmertForQuestionAnswering, "lxmert", source, revision, dtype)
    folder = Path(source)
    tokenizer = None
    if not folder.is_dir() or (folder / "tokenizer_config.json").exists() or (folder / "vocab.txt").exists():
        tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS.get(source, source))
    if answers is None and (folder / "label2ans.json").exists():
        answers = json.loads((folder / "label2ans.json").read_text(encoding="utf-8"))
    if answers is not None and len(answers) != model.config.num_qa_labels:
        raise CheckpointError(
            f"{len(answers)} answers were given for {model.config.num_qa_labels} answer logits of {source!r}: "
            "use the answer list this checkpoint was trained with"
        )
    return LxmertAdapter(model.to(device), tokenizer, answers)


LOADERS: dict[str, Callable[..., AnyAdapter]] = {"detr": _load_detr, "lxmert": _load_lxmert}
