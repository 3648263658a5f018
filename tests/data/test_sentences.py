"""Files of sentences: what is read, and what is said of damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hetexp.data.check import check_dataset
from hetexp.data.problems import DamagedFile
from hetexp.data.sentences import Decided, open_sentences, read_sentences
from hetexp.errors import DataError

GOOD = {"id": 7, "source": "a red dog", "target": "red", "decided": [{"span": [0, 3], "deciding": [[2, 5]]}]}


def write(folder: Path, items: Any) -> Path:
    (folder / "sentences.json").write_text(json.dumps(items))
    return folder / "sentences.json"


def test_reads(tmp_path: Path) -> None:
    path = write(tmp_path, [GOOD, {"id": "b", "source": "x", "target": "y", "group": "g", "kind": "k"}])
    first, second = read_sentences(path)
    assert (first.id, first.group, first.kind) == ("7", "7", "")
    assert first.decided == (Decided((0, 3), ((2, 5),)),)
    assert (second.decided, second.group, second.kind) == (None, "g", "k")
    data = {"root": str(tmp_path), "sentences": "sentences.json", "format": "sentences"}
    assert len(open_sentences(data, limit=1, seed=0).sentences) == 1
    assert check_dataset(data).summary == "2 sentences"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": None}, "target None, expected a text with words"),
        ({"source": "  "}, "source '  ', expected a text with words"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"id": 1.5}, "id 1.5, expected a number or a text"),
        ({"decided": {}}, "decided {}, expected a list"),
        ({"decided": [{"span": [0, 3]}]}, "expected span, deciding"),
        ({"decided": [{"span": [0, 4], "deciding": []}]}, "within its target's 3 characters"),
        ({"decided": [{"span": [0, 3], "deciding": [[5, 5]]}]}, "within its source's 9 characters"),
        ({"decided": [{"span": [0, 3], "deciding": [], "role": "a/b"}]}, "role 'a/b'"),
    ],
)
def test_says_what_is_wrong(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile) as caught:
        read_sentences(write(tmp_path, [GOOD, {**GOOD, "id": 8, **change}]))
    assert "item 1" in str(caught.value)
    assert message in str(caught.value)


def test_other_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_sentences(tmp_path / "none.json")
    with pytest.raises(DamagedFile, match="twice"):
        read_sentences(write(tmp_path, [GOOD, GOOD]))
    with pytest.raises(DataError, match="no sentences"):
        read_sentences(write(tmp_path, []))
    with pytest.raises(DataError, match=r"data\.sentences is not set"):
        open_sentences({"root": ".", "sentences": None}, limit=None, seed=0)
