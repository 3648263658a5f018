"""Methods and their parameters, from the configuration to results.csv and the store."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from run_helpers import Compose, run_to

from hetexp.attribution.registry import METHODS
from hetexp.errors import ConfigError
from hetexp.experiments.engine.methods import resolve_methods
from hetexp.paths import conf_dir


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_config_lists_all_its_parameters(name: str) -> None:
    given = OmegaConf.to_container(OmegaConf.load(conf_dir() / "method" / f"{name}.yaml"))
    assert given == {"name": name, **METHODS[name].accepted()}


def test_a_parameter_that_a_method_does_not_have_is_refused(composed: Compose) -> None:
    with pytest.raises(ConfigError, match="method 'gae' has no parameter 'correction': it has normalise"):
        resolve_methods(composed("method=gae", "+method.correction=abs"))
    with pytest.raises(ConfigCompositionException, match=r"method\.correction=abs"):
        composed("method=gae", "method.correction=abs")
    with pytest.raises(ConfigError, match=r"correction=abs does not apply to method 'gae'.*these have: ours_abs"):
        resolve_methods(composed("method=gae", "correction=abs"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["methods=[gae]", "+parameters.odam.feature=encoder"], "parameters.odam is set, but this run computes gae"),
        (["methods=[gae]", "+parameters.nope.x=1"], "unknown method 'nope'"),
        (["methods=[odam]", "+parameters.odam.nope=1"], "method 'odam' has no parameter 'nope': it has feature"),
        (["methods=[ours_abs,ours_pos]", "correction=pos"], "make several methods the same"),
    ],
)
def test_parameters_of_listed_methods_are_checked(composed: Compose, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_methods(composed(*overrides))


def test_a_feature_of_odam_has_units_and_numbers_of_its_own(toy_config: Compose, tmp_path: Path) -> None:
    methods = "methods=[gae,odam]"
    plain = run_to(toy_config(methods), tmp_path / "plain")
    units = set((tmp_path / "outputs" / "store").rglob("odam-*"))
    other = run_to(toy_config(methods, "+parameters.odam.feature=encoder"), tmp_path / "encoder")
    fresh = set((tmp_path / "outputs" / "store").rglob("odam-*")) - units
    assert len(fresh) == len(units) > 0
    assert list(other["method"].unique()) == ["gae", "odam(feature=encoder)"]
    by_method = [frame.groupby("method", sort=False)["value"] for frame in (plain, other)]
    (gae, odam), (same, changed) = ([values.reset_index(drop=True) for _, values in found] for found in by_method)
    pd.testing.assert_series_equal(gae, same)
    assert not odam.equals(changed)


def test_one_method_may_have_its_parameters_beside_its_name(composed: Compose) -> None:
    (spec,) = resolve_methods(composed("method=odam", "method.feature=encoder"))
    assert spec.name == "odam(feature=encoder)"
    (listed,) = resolve_methods(composed("methods=[odam]", "+parameters.odam.feature=encoder"))
    assert (spec.name, spec.settings) == (listed.name, listed.settings)
