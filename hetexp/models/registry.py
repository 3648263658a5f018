"""The architectures that can be explained, one line each, and `load_model`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hetexp.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch

Kind = Literal["detection", "vqa", "text", "similarity", "wired"]
AUTO = "auto"


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: `model_type` of its `config.json`, and `model.name` of the configuration.
        label: what it is called in print.
        kind: what its models do, which decides the experiment: "detection" (a `Detector`) or "vqa" (an `Answerer`).
            There is none for models that are no more than an `Adapter`: "text" (they write text), "similarity" (they
            score texts and pictures).
        module: where its adapter is, "module" or "module:Class"; `load(source, device, dtype, revision, **options)`
            there builds one.
        suffixes: of single files that its authors released and `load` reads.
    """

    name: str
    label: str
    kind: Kind
    module: str
    suffixes: tuple[str, ...] = ()

    @property
    def load(self) -> Callable[..., Any]:
        """The loader, imported when first asked for."""
        module, _, owner = self.module.partition(":")
        home = import_module(module)
        loader: Callable[..., Any] = (getattr(home, owner) if owner else home).load
        return loader


ARCHITECTURES: dict[str, Architecture] = {
    a.name: a
    for a in (
        Architecture("detr", "DETR", "detection", "hetexp.models.detr", (".pth", ".pt")),
        Architecture("conditional_detr", "Conditional DETR", "detection", "hetexp.models.conditional_detr"),
        Architecture("dab-detr", "DAB-DETR", "detection", "hetexp.models.dab_detr"),
        Architecture("table-transformer", "Table Transformer", "detection", "hetexp.models.table_transformer"),
        Architecture("yolos", "YOLOS", "detection", "hetexp.models.yolos"),
        Architecture("deformable_detr", "Deformable DETR", "detection", "hetexp.models.deformable_detr"),
        Architecture("rt_detr", "RT-DETR", "detection", "hetexp.models.rt_detr:RTDetrAdapter"),
        Architecture("rt_detr_v2", "RT-DETRv2", "detection", "hetexp.models.rt_detr:RTDetrV2Adapter"),
        Architecture("d_fine", "D-FINE", "detection", "hetexp.models.rt_detr:DFineAdapter"),
        Architecture("deimv2", "DEIMv2", "detection", "hetexp.models.rt_detr:Deimv2Adapter"),
        Architecture("lw_detr", "LW-DETR", "detection", "hetexp.models.lw_detr:LwDetrAdapter"),
        Architecture("rf_detr", "RF-DETR", "detection", "hetexp.models.lw_detr:RfDetrAdapter"),
        Architecture("owlvit", "OWL-ViT", "detection", "hetexp.models.owl:OwlViTAdapter"),
        Architecture("owlv2", "OWLv2", "detection", "hetexp.models.owl:Owlv2Adapter"),
        Architecture("lxmert", "LXMERT", "vqa", "hetexp.models.lxmert"),
        Architecture("visual_bert", "VisualBERT", "vqa", "hetexp.models.visual_bert:VisualBertAdapter"),
        Architecture("vilt", "ViLT", "vqa", "hetexp.models.vilt:ViltAdapter"),
        Architecture("blip", "BLIP", "text", "hetexp.models.blip:BlipAdapter"),
        Architecture("bart", "BART", "text", "hetexp.models.encoder_decoder:BartAdapter"),
        Architecture("marian", "Marian", "text", "hetexp.models.encoder_decoder:MarianAdapter"),
        Architecture("t5", "T5", "text", "hetexp.models.encoder_decoder:T5Adapter"),
        Architecture("whisper", "Whisper", "text", "hetexp.models.encoder_decoder:WhisperAdapter"),
        Architecture(
            "vision-encoder-decoder", "TrOCR", "text", "hetexp.models.encoder_decoder:VisionEncoderDecoderAdapter"
        ),
        Architecture("clip", "CLIP", "similarity", "hetexp.models.two_towers:ClipAdapter"),
        Architecture("siglip", "SigLIP", "similarity", "hetexp.models.two_towers:SiglipAdapter"),
    )
}


ANY = Architecture("wired", "Wired", "wired", "hetexp.models.any_checkpoint")  # what a user's own wiring describes


def get_architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    if name not in ARCHITECTURES:
        raise ConfigError(f"unknown model {name!r}. Available models: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def suffixes_of(name: str, wiring: str | None = None) -> tuple[str, ...]:
    """Endings of single files that a model of that name, or "auto", is read from.

    Raises:
        ConfigError: for an unknown name.
    """
    if name != AUTO:
        return get_architecture(name).suffixes
    return () if wiring is not None else tuple(suffix for a in ARCHITECTURES.values() for suffix in a.suffixes)


def check_source(source: str, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse a path that is neither a folder nor a released file of one of these suffixes; hub ids pass.

    Raises:
        CheckpointError: saying what may be given.
    """
    path = Path(source)
    is_path = path.exists() or source.count("/") != 1 or source.startswith((".", "/", "~"))
    if is_path and not path.is_dir() and not (path.is_file() and path.suffix in suffixes):
        files = f", or an original {' or '.join(suffixes)} file" if suffixes else ""
        raise CheckpointError(
            f"checkpoint {source!r} is no folder: give a folder written by save_pretrained, or a hub id like "
            f"facebook/detr-resnet-50{files}"
        )


def architecture_of(checkpoint: str | Path, revision: str | None = None) -> Architecture:
    """The architecture that a checkpoint's `config.json` names.

    Raises:
        CheckpointError: for a checkpoint that is missing or of an architecture that is not supported.
    """
    from hetexp.models.checkpoints import read_config

    source = str(checkpoint)
    check_source(source, suffixes_of(AUTO))
    if Path(source).is_file():
        return next(a for a in ARCHITECTURES.values() if Path(source).suffix in a.suffixes)
    found = read_config(source, revision).model_type
    if found not in ARCHITECTURES:
        raise CheckpointError(
            f"{source!r} is a {found!r} checkpoint, which is not supported: {supported()}; any other is explained "
            "through a wiring, which task=structure proposes"
        )
    return ARCHITECTURES[found]


def is_known(checkpoint: str | Path, revision: str | None = None) -> bool:
    """Whether a checkpoint's architecture is one of these.

    Raises:
        CheckpointError: for a checkpoint that is missing.
    """
    from hetexp.models.checkpoints import read_config

    check_source(str(checkpoint), suffixes_of(AUTO))
    return Path(checkpoint).is_file() or read_config(str(checkpoint), revision).model_type in ARCHITECTURES


def supported() -> str:
    """The architectures in one sentence."""
    return f"supported are {', '.join(ARCHITECTURES)}"


def load_model(
    name: str | Path,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    revision: str | None = None,
    **options: Any,
) -> Any:
    """Load a model and wrap it in its adapter.

    `load_model(checkpoint)` reads the architecture from the checkpoint's `config.json`, as does the name "auto";
    `load_model(name, checkpoint)` says it.

    Args:
        name: an architecture ("detr", "lxmert", ...), "auto", or the checkpoint itself.
        checkpoint: folder written by `save_pretrained`, a hub id, or a file as DETR's authors released it (`.pth`).
        device: where the model runs, e.g. "cpu", "cuda".
        dtype: floating type of weights and attribution, torch.float32 by default; torch.float64 works throughout.
        revision: hub revision; known checkpoints have a pinned default.
        options: the architecture's own, e.g. `score_threshold` and `autocast` of detectors, `answers` (answer strings
            in the order of the logits) of models that answer questions. One that is None keeps its default. `wiring`,
            the path of a YAML file, is for a checkpoint of any other architecture, see `hetexp.propose`.

    Returns:
        a `hetexp.models.protocols.Detector` or `Answerer`.

    Raises:
        ConfigError: for an unknown architecture, or an option that it does not have.
        CheckpointError: for a checkpoint that is missing, unreadable, or of another architecture.
    """
    import torch

    from hetexp.models.checkpoints import quiet

    if checkpoint is None:
        if str(name) in (AUTO, *ARCHITECTURES) and not Path(name).exists():
            raise ConfigError(
                f"load_model({str(name)!r}) lacks a checkpoint: give a folder or a hub id beside the name"
            )
        name, checkpoint = AUTO, name
    source = str(checkpoint)
    if name == AUTO and options.get("wiring") is not None:
        check_source(source)
        architecture = ANY
    else:
        architecture = architecture_of(source, revision) if name == AUTO else get_architecture(str(name))
    check_source(source, architecture.suffixes)
    given = {key: value for key, value in options.items() if value is not None}
    known = list(inspect.signature(architecture.load).parameters)[4:]
    unknown = sorted(set(given) - set(known))
    if unknown:
        has = f"its options are {', '.join(known)}" if known else "it has no options"
        raise ConfigError(f"model {architecture.name!r} has no option {', '.join(unknown)}: {has}")
    with quiet():
        try:
            return architecture.load(source, torch.device(device), dtype or torch.float32, revision, **given)
        except OSError as error:
            raise CheckpointError(f"cannot load {architecture.name} from {source!r}: {error}") from error
