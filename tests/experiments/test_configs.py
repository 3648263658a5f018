"""Every combination of configuration groups composes, and every file in conf/ is sound."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from run_helpers import Compose, run_to

from hetexp.attribution.registry import METHODS
from hetexp.config import scales, validate
from hetexp.experiments.engine.methods import resolve_methods
from hetexp.paths import conf_dir


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml"))


def test_every_method_has_a_config() -> None:
    assert set(options("method")) == set(METHODS)


@pytest.mark.parametrize(("profile", "model"), list(itertools.product(["embedded", "paper"], ["detr", "lxmert"])))
def test_profiles_and_models(composed: Compose, profile: str, model: str) -> None:
    cfg = composed(f"profile={profile}", f"model={model}", "data.root=/data")
    assert cfg.data.name
    assert cfg.model.checkpoint
    validate(cfg)


@pytest.mark.parametrize("method", options("method"))
def test_methods_keep_their_own_settings(composed: Compose, method: str) -> None:
    (spec,) = resolve_methods(composed(f"method={method}"))
    assert spec.name == method
    assert spec.method == METHODS[method].build()


@pytest.mark.parametrize(
    ("correction", "noise_link"), list(itertools.product(options("correction"), options("noise_link")))
)
def test_overrides_of_correction_and_noise_link(composed: Compose, correction: str, noise_link: str) -> None:
    (spec,) = resolve_methods(composed("method=ours_noised", f"correction={correction}", f"noise_link={noise_link}"))
    assert spec.parameter("correction") == ("pos" if correction == "of_method" else correction)
    assert spec.parameter("noise_link") == ("row" if noise_link == "of_method" else noise_link)


@pytest.mark.parametrize("group", ["threshold", "target", "task", "logger"])
def test_other_groups(composed: Compose, group: str) -> None:
    for option in options(group):
        cfg = composed(f"{group}={option}")
        validate(cfg)
        OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiments(composed: Compose, experiment: str) -> None:
    cfg = composed(f"+experiment={experiment}")
    validate(cfg)
    assert cfg.experiment == experiment
    if cfg.methods is not None:
        assert len(resolve_methods(cfg)) == len(cfg.methods)


@pytest.mark.parametrize("experiment", ["figure6", "figure6_models"])
def test_the_perturbation_test_has_an_oracle_where_the_data_knows_what_decides(
    composed: Compose, experiment: str
) -> None:
    assert list(composed(f"+experiment={experiment}").controls) == ["oracle"]
    assert composed(f"+experiment={experiment}", "profile=paper", "data.root=somewhere").controls is None
    assert composed(f"+experiment={experiment}", "controls=null").controls is None


def test_scales_may_be_one_or_many(composed: Compose) -> None:
    assert scales(composed("threshold.scale=0.3")) == [0.3]
    assert scales(composed("threshold.scale=[1,0.3]")) == [1.0, 0.3]
    assert scales(composed("threshold=otsu_03")) == [0.3]


@pytest.mark.parametrize(
    "override",
    [
        "method=nope",
        "model=nope",
        "batch_size=many",
        "unknown_key=1",
        "threshold.upsample=cubic",
        "dtype=float16",
        "autocast=int8",
    ],
)
def test_typing_errors_are_refused_by_name(composed: Compose, override: str) -> None:
    with pytest.raises(ConfigCompositionException, match=override.partition("=")[0]):
        composed(override)


def test_every_key_is_explained() -> None:
    for path in Path(conf_dir()).rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "#" in text, f"{path} explains nothing"


@pytest.mark.parametrize(
    ("old", "key", "value"),
    [
        ("model.keep=0.25", "model.score_threshold", 0.25),
        ("model.submit_unkept=true", "model.include_below_threshold", True),
        ("model.odam_feature=encoder", "parameters.odam.feature", "encoder"),
        ("data=embedded_detr", "data.name", "scenes"),
        ("data=embedded_lxmert", "data.name", "scene_questions"),
    ],
)
def test_names_of_one_release_ago(
    composed: Compose, caplog: pytest.LogCaptureFixture, old: str, key: str, value: object
) -> None:
    cfg = composed("methods=[odam]", old)
    assert OmegaConf.select(cfg, key) == value
    assert f"{old} is now called" in caplog.text
    validate(cfg)


def test_a_model_may_be_left_to_its_checkpoint(toy_config: Compose, toy_vqa_config: Compose, tmp_path: Path) -> None:
    named = run_to(toy_config("method=gae"), tmp_path / "named")
    found = run_to(toy_config("model=auto", "method=gae"), tmp_path / "auto")
    pd.testing.assert_frame_equal(named, found)
    assert set(run_to(toy_vqa_config("model=auto", "data=embedded_vqa", "method=gae"), tmp_path / "vqa")["model"]) == {
        "lxmert"
    }
