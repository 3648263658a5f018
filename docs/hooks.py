"""Pictures that pages show are those of outputs/reference; the build takes them from there."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PICTURES = Path(__file__).parents[1] / "outputs" / "reference" / "figures"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference figures as figures/*.png."""
    for path in sorted(PICTURES.glob("*.png")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    return files
