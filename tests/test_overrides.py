"""Slips on the command line are refused with what was probably meant."""

from __future__ import annotations

import importlib.util
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from hetexp.errors import ConfigError
from hetexp.overrides import check_overrides


@pytest.mark.parametrize(
    "arguments",
    [
        ["limit=10", "model=detr", "method=gae", "image=a b.jpg", "question=is there a zebra?"],
        ["+experiment=table1", "+parameters.odam.feature=encoder", "method.anything=1", "~limit", "merge.from=x"],
        ["-m", "method=gae,ours_abs", "threshold.scale=1.0,0.3", "shard=0/2,1/2"],
        ["--config-dir", "conf", "method=my_method", "my_key=1"],
        ["--help"],
        ["hydra.run.dir=x", "hydra/launcher=basic", 'image="a=b,c.jpg"'],
    ],
)
def test_what_can_be_read_passes(arguments: list[str]) -> None:
    check_overrides(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["limt=10"], r"unknown key limt: did you mean limit\?"),
        (["model.scor=0.1"], r"unknown key model.scor: did you mean model.score_threshold\?"),
        (["treshold.scale=1"], r"did you mean threshold.scale\?"),
        (["method=gea"], r"unknown method 'gea': did you mean gae\? available are .*rollout"),
        (["-m", "method=gae,gea"], r"unknown method 'gea'"),
        (["+experiment=tabel1"], r"unknown experiment 'tabel1': did you mean table1\?"),
        (["image"], r"'image' is no key=value, such as limit=10"),
        (["question=is", "there", "a", "zebra?", "limit=1"], r"quote the whole: 'question=is there a zebra\?'"),
        (["threshold.scale=[1.0,0.3"], r"look at its brackets"),
        (["threshold.scale=1.0,0.3"], r"make it a list, 'threshold.scale=\[1.0,0.3\]', or run .* with -m"),
    ],
)  # fmt: skip
def test_slips_are_met_with_what_was_meant(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_overrides(arguments)


@pytest.mark.parametrize(
    "path",
    [
        *("a=b.jpg", "a,b.jpg", "zürich/ä.jpg", "(x).jpg", "it's.jpg", "[a].jpg", "{a}.jpg", "~/x.jpg", "a#b.jpg"),
        *("日本, 語.png", 'a"b=.jpg', "a'b\"c=.jpg", "/data/a b=c, d/é"),
    ],
)
@pytest.mark.parametrize("key", ["image", "data.root", "paths.outputs"])
def test_the_quoted_form_that_is_shown_works(key: str, path: str) -> None:
    """What the message offers to type is, after the shell has read it, an override with exactly this value."""
    with pytest.raises(ConfigError) as caught:
        check_overrides([f"{key}={path}"])
    offered = str(caught.value).partition("write " if " write " in str(caught.value) else "the value, ")[2]
    (typed,) = shlex.split(offered.partition(" (one pair")[0].partition(", make it")[0])
    check_overrides([typed])
    assert OverridesParser.create().parse_override(typed).value() == path


def test_a_launcher_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"hydra/launcher=parallel needs .*pip install 'hetexp\[cluster\]'"):
        check_overrides(["-m", "hydra/launcher=parallel", "shard=0/2,1/2"])
