"""What explaining single items shares: which items and methods are shown, and the folder that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors import SafetensorError

from hetexp.attribution.method import Method
from hetexp.attribution.registry import get_method
from hetexp.errors import DataError
from hetexp.experiments.engine.session import Session
from hetexp.explanation import Explanation
from hetexp.explanation_files import MaskSettings
from hetexp.files import atomic_folder
from hetexp.reporting.names import PAPER_METHODS

DEFAULT_ITEMS = 6
ITEMS_FILE = Path(__file__).with_name("sample_items.yaml")


def chosen_items(data: str) -> dict[str, Any]:
    """The chosen items of a data set; empty if none were chosen."""
    chosen = OmegaConf.to_container(OmegaConf.load(ITEMS_FILE))
    assert isinstance(chosen, dict)
    return dict(chosen.get(data, {}))


def shown_methods(session: Session) -> dict[str, Method]:
    """The methods that figures show: those the configuration lists, else the paper's five and that of `method=`."""
    asked = {s.name: s.method for s in session.methods}
    if session.cfg.methods is not None:
        return asked
    return {name: get_method(name).build() for name in PAPER_METHODS} | asked


def mask_settings(session: Session, scales: Sequence[float]) -> MaskSettings:
    """The masks of explanations as the configuration asks for them."""
    given = session.cfg.threshold
    return MaskSettings(scales, given.upsample, given.tie, session.strategy)


def write_explanations(
    folder: Path, explanations: Mapping[str, Explanation], about: Mapping[str, Any], masks: MaskSettings
) -> None:
    """Write explanations by name as one folder, whole or not at all; what lay there before is replaced.

    Raises:
        DataError: if the disk refuses; what lay there before is intact.
    """
    try:
        with atomic_folder(folder, replace=True) as temporary:
            for name, explanation in explanations.items():
                (temporary / name).mkdir()
                explanation.write(temporary / name, masks)
            index = {**about, "items": list(explanations)}
            (temporary / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot write {folder} ({error}): free some space or choose another paths.outputs") from error
