"""Every combination of configuration groups composes, and every file in conf/ is sound."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from hetexp.attribution.methods import METHODS
from hetexp.config import scales, validate
from hetexp.experiments.methods import resolve_methods
from hetexp.paths import conf_dir


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml"))


def test_every_method_has_a_config():
    assert set(options("method")) == set(METHODS)


@pytest.mark.parametrize(("profile", "model"), list(itertools.product(["embedded", "paper"], ["detr", "lxmert"])))
def test_profiles_and_models(composed, profile, model):
    cfg = composed(f"profile={profile}", f"model={model}", "data.root=/data")
    assert cfg.data.name
    assert cfg.model.checkpoint
    validate(cfg)


@pytest.mark.parametrize("method", options("method"))
def test_methods_keep_their_own_settings(composed, method):
    (spec,) = resolve_methods(composed(f"method={method}"))
    assert spec.name == method
    assert spec.method == METHODS[method]


@pytest.mark.parametrize(
    ("correction", "noise_link"), list(itertools.product(options("correction"), options("noise_link")))
)
def test_overrides_of_correction_and_noise_link(composed, correction, noise_link):
    (spec,) = resolve_methods(composed("method=ours_noised", f"correction={correction}", f"noise_link={noise_link}"))
    assert spec.correction == ("pos" if correction == "of_method" else correction)
    assert spec.noise_link == ("row" if noise_link == "of_method" else noise_link)


@pytest.mark.parametrize("group", ["threshold", "target", "task", "logger"])
def test_other_groups(composed, group):
    for option in options(group):
        cfg = composed(f"{group}={option}")
        validate(cfg)
        OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiments(composed, experiment):
    cfg = composed(f"+experiment={experiment}")
    validate(cfg)
    assert cfg.experiment == experiment
    if cfg.methods is not None:
        assert len(resolve_methods(cfg)) == len(cfg.methods)


def test_scales_may_be_one_or_many(composed):
    assert scales(composed("threshold.scale=0.3")) == [0.3]
    assert scales(composed("threshold.scale=[1,0.3]")) == [1.0, 0.3]
    assert scales(composed("threshold=otsu_03")) == [0.3]


@pytest.mark.parametrize("override", ["method=nope", "model=nope", "batch_size=many", "unknown_key=1"])
def test_typing_errors_are_refused_by_name(composed, override):
    with pytest.raises(ConfigCompositionException, match=override.partition("=")[0]):
        composed(override)


def test_every_key_is_explained():
    for path in Path(conf_dir()).rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "#" in text, f"{path} explains nothing"
