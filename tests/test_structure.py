"""Figure 1 for any model: streams, steps, types and shapes from one dry run, as text, JSON and pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_lxmert
from torch import nn
from transformers import CLIPConfig, CLIPModel, WhisperConfig, WhisperForConditionalGeneration

import hetexp
from hetexp import config
from hetexp.dry_run import structure
from hetexp.errors import ConfigError, DataError, InputError
from hetexp.experiments.structure import run_structure
from hetexp.models.encoder_decoder import WhisperAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.two_towers import ClipAdapter
from hetexp.paths import asset
from hetexp.program import Block, Step, Structure, folded
from hetexp.reporting.commands import MissingInput
from hetexp.reporting.products import make_figures
from hetexp.reporting.structures import newest_structures


def kinds(found: Structure) -> list[tuple[int, list[tuple[str, str]]]]:
    return [(block.times, [(step.kind, step.attends) for step in block.steps]) for block in found.blocks]


def test_detr() -> None:
    found = structure(hetexp.load_model(asset("detr")))
    assert kinds(found) == [
        (3, [("A", "image self")]),
        (3, [("C", "queries self"), ("B", "queries to image")]),
    ]
    image, queries = found.streams
    assert (image.name, image.read, [name for name, _ in image.sources]) == ("image", "", ["image"])
    assert (queries.tokens, queries.read, queries.sources) == (16, "its own token", ())
    cross = found.steps[-1]
    assert (cross.n_query, cross.n_key, cross.sampled) == (16, image.tokens, None)
    assert found.blocks[1].last == ("decoder.2.self", "decoder.2.cross")


def test_lxmert_reads_both_streams_at_once() -> None:
    found = structure(LxmertAdapter(tiny_lxmert()))
    cross = found.blocks[-1]
    assert [[(s.kind, s.attends) for s in group] for group in cross.groups] == [
        [("B", "text to image"), ("B", "image to text")],
        [("C", "text self"), ("C", "image self")],
    ]
    assert [stream.read for stream in found.streams] == ["token 0", ""]
    assert "┌ B  text to image" in str(found)


def test_sampled_attention_tells_how_many_keys() -> None:
    found = structure(hetexp.load_model(asset("deformable_detr")))
    first = found.steps[0]
    assert first.sampled is not None
    assert 0 < first.sampled < first.n_key
    assert f"{first.sampled} of {first.n_key}" in str(found)


def test_inputs_are_made_up() -> None:
    settings: dict[str, Any] = dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 16)
    settings |= {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    tokens = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    sound = WhisperForConditionalGeneration(WhisperConfig(**settings, **tokens, max_source_positions=50))
    found = structure(WhisperAdapter(sound))
    assert [(s.name, s.tokens, s.read) for s in found.streams] == [("audio", 50, ""), ("target", 4, "its own token")]
    tower: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    clip = CLIPConfig(
        text_config={**tower, "vocab_size": 20, "eos_token_id": 19},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    found = structure(ClipAdapter(CLIPModel(clip)))
    assert {s.name: s.read for s in found.streams} == {"text": "token 7", "image": "token 0"}
    assert {step.kind for step in found.steps} == {"A"}
    module = nn.Transformer(8, 2, 1, 1, 8, batch_first=True)
    inputs = {name: torch.randn(1, n, 8) for name, n in (("src", 3), ("tgt", 2))}
    adapter = hetexp.wrap(module, hetexp.propose(module, inputs))
    with pytest.raises(InputError, match="Transformer cannot be made up: its forward pass reads src, tgt"):
        structure(adapter)
    assert [s.name for s in structure(adapter, inputs).streams] == ["src", "tgt"]


def steps(text: str) -> list[tuple[Step, ...]]:
    """A program of self-attentions on streams named by letters."""
    return [(Step(f"{i}", x, x, "A", 1, 2, 2, 1),) for i, x in enumerate(text)]


def as_text(blocks: tuple[Block, ...]) -> str:
    return " ".join(f"{''.join(s.query for s in block.steps)}{block.times}" for block in blocks)


@pytest.mark.parametrize(
    ("program", "blocks"),
    [
        ("aaabcbcbc", "a3 bc3"),
        ("abc", "a1 b1 c1"),
        ("aabaab", "aab2"),
        ("aab", "a2 b1"),
        ("xaaaa", "x1 a4"),
        ("ababa", "ab2 a1"),
        ("", ""),
    ],
)
def test_consecutive_layers_are_folded(program: str, blocks: str) -> None:
    found = folded(steps(program))
    assert as_text(found) == blocks
    assert sum(len(block.groups) * block.times for block in found) == len(program)


def test_layers_of_another_shape_are_not_folded() -> None:
    wide = Step("wide", "a", "a", "A", 8, 2, 2, 1)
    assert [block.times for block in folded([*steps("aa"), (wide,)])] == [2, 1]


def test_files(tmp_path: Path) -> None:
    found = structure(LxmertAdapter(tiny_lxmert()))
    paths = {path.name: path for path in found.save(tmp_path)}
    assert set(paths) == {f"structure.{kind}" for kind in ("json", "txt", "svg", "pdf", "png")}
    assert Structure.from_json(paths["structure.json"].read_text(encoding="utf-8")) == found
    assert paths["structure.txt"].read_text(encoding="utf-8") == f"{found}\n"
    drawn = paths["structure.svg"].read_text(encoding="utf-8")
    for text in ("to image", "to text", "prediction", "× 2", "from token 0", "heterogenous: co-attention"):
        assert text in drawn
    before = paths["structure.svg"].read_bytes(), paths["structure.pdf"].read_bytes()
    found.save(tmp_path)
    assert (paths["structure.svg"].read_bytes(), paths["structure.pdf"].read_bytes()) == before
    with pytest.raises(DataError, match="task=structure"):
        Structure.from_json("{}")


def test_a_drawing_needs_no_model() -> None:
    """What is drawn and told apart: a box a step, its shape and its type's letter."""
    found = structure(LxmertAdapter(tiny_lxmert()))
    texts = [text.get_text() for text in found.plot().axes[0].texts]
    assert texts.count("B") == 2 + 1  # and one in the legend
    assert sum(text.startswith("× ") for text in texts) == sum(block.times > 1 for block in found.blocks)
    source = Path(sys.modules["hetexp.reporting.figures.structure"].__file__ or "").read_text(encoding="utf-8")
    assert "torch" not in source


def test_figure_1_is_made_of_what_lies_on_disk(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"python run\.py model=detr task=structure"):
        make_figures(tmp_path, ["figure1"])
    lxmert = structure(LxmertAdapter(tiny_lxmert()))
    detr = structure(hetexp.load_model(asset("detr")))
    for i, found in enumerate((lxmert, detr, lxmert)):
        found.save(tmp_path / "runs" / str(i))
    assert newest_structures(tmp_path) == [detr, lxmert]
    (made,) = make_figures(tmp_path, ["figure1"])
    assert {path.name for path in made.paths} == {"figure1.png", "figure1.pdf", "figure1.svg"}
    drawn = (tmp_path / "figures" / "figure1.svg").read_text(encoding="utf-8")
    assert drawn.count("heterogenous: co-attention") == 1  # one legend for both
    assert drawn.count(detr.model) == drawn.count(lxmert.model) == 1


def run(folder: Path, *overrides: str) -> None:
    cfg = config.composed("progress=false", "task=structure", f"paths.outputs={folder}", *overrides)
    run_structure(cfg)


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("hetexp.experiments.structure.open_session", into(tmp_path / "run"))
    run(tmp_path, "model=lxmert")
    assert "text to image" in capsys.readouterr().out
    assert (tmp_path / "run" / "structure.svg").is_file()
    with pytest.raises(ConfigError, match="leave image out"):
        run(tmp_path, "model=lxmert", "image=photo.jpg")
    run(tmp_path, "model=detr", f"image={asset('scenes/val/images/000175.jpg')}")
    assert "queries to image" in capsys.readouterr().out


def into(folder: Path) -> Any:
    from hetexp.experiments.engine.session import open_session

    return lambda cfg: open_session(cfg, folder)


def test_an_architecture_on_no_list_is_proposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(vocab_size=30, **settings))
    model.save_pretrained(tmp_path / "bert")
    monkeypatch.setattr("hetexp.experiments.structure.open_session", into(tmp_path / "run"))
    run(tmp_path, "model=auto", f"model.checkpoint={tmp_path / 'bert'}")
    printed = capsys.readouterr().out
    path = tmp_path / "run" / "wiring.yaml"
    assert path.read_text(encoding="utf-8") in printed
    path.write_text(path.read_text(encoding="utf-8").replace("text", "words"), encoding="utf-8")  # a correction
    run(tmp_path, "model=auto", f"model.checkpoint={tmp_path / 'bert'}", f"model.wiring={path}")
    assert "words self" in capsys.readouterr().out
    loaded = hetexp.load_model(tmp_path / "bert", wiring=path)
    found = hetexp.explain(loaded, {"input_ids": torch.tensor([[1, 5, 6, 7]])}, ["ours_abs"])
    assert found["ours_abs"]["words"].shape == (1, 4)
    with pytest.raises(ConfigError, match="has no option wiring"):
        hetexp.load_model("lxmert", asset("lxmert"), wiring=path)
