"""Every script can be imported: none asks for a module or a name that has moved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
FOLDERS = sorted({path.parent for path in SCRIPTS.rglob("*.py")})
IMPORTS = """
import importlib
import sys
import traceback

failed = 0
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        traceback.print_exc()
        failed += 1
sys.exit(failed)
"""


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(SCRIPTS.parent).as_posix())
def test_scripts_can_be_imported(folder: Path) -> None:
    names = sorted(path.stem for path in folder.glob("*.py"))
    environment = os.environ | {"PYTHONPATH": str(folder)}  # as for a script that is run
    command = [sys.executable, "-c", IMPORTS, *names]
    done = subprocess.run(command, cwd=SCRIPTS.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
