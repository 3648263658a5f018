"""The attribution methods: one record each, which serves configuration, tables, figures and the report alike.

A record names its class instead of importing it, so that tables and figures are made without loading torch.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from hetexp.errors import ConfigError
from hetexp.paths import import_from

if TYPE_CHECKING:
    from hetexp.attribution.method import Method


@dataclass(frozen=True)
class MethodRecord:
    """One attribution method.

    Attributes:
        name: as in `method=` and results.csv.
        label: as printed in tables and figures.
        implementation: its class, "module:Class".
        reference: where it comes from, with DOI where there is one.
        parameters: constructor arguments behind this name; the rest keep their defaults.
        signed: whether its relevance can be negative (drawn in diverging colours about 0).
        control: whether it is a control, printed last and in black.
        colour: of its curve, told apart with any colour vision (Okabe and Ito's set).
        marker: of its curve, which tells it apart without colour.
    """

    name: str
    label: str
    implementation: str
    reference: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    signed: bool = False
    control: bool = False
    colour: str = "#444444"
    marker: str = "."

    @property
    def implementation_class(self) -> type[Method]:
        """The class, imported when first asked for."""
        found: type[Method] = import_from(self.implementation)
        return found

    def accepted(self) -> dict[str, Any]:
        """All constructor arguments with their values under this name."""
        signature = inspect.signature(self.implementation_class)
        return {name: self.parameters.get(name, p.default) for name, p in signature.parameters.items()}

    def build(self, changes: Mapping[str, Any] | None = None) -> Method:
        """The method, with some constructor arguments changed.

        Raises:
            ConfigError: for an argument that it does not have, or a value that it refuses.
        """
        values = self.accepted()
        unknown = sorted(set(changes or {}) - set(values))
        if unknown:
            known = f"it has {', '.join(values)}" if values else "it has none"
            raise ConfigError(f"method {self.name!r} has no parameter {', '.join(map(repr, unknown))}: {known}")
        return self.implementation_class(**(values | dict(changes or {})))


VARIANT = re.compile(r"(?P<base>[^()]+)\((?P<changes>.+)\)")  # a method's name with changed parameters

_OURS = "Cui, Fan and Chen 2026, doi:10.48550/arXiv.2605.27458"
_GAE = "Chefer, Gur and Wolf, ICCV 2021, doi:10.48550/arXiv.2103.15679"
_OURS_CLASS = "hetexp.attribution.ours:Ours"

# In the order of print: the paper's tables first.
METHODS: dict[str, MethodRecord] = {
    record.name: record
    for record in (
        MethodRecord("gae", "GAE", "hetexp.attribution.gae:Gae", _GAE, colour="#E69F00", marker="s"),
        MethodRecord(
            "odam",
            "ODAM",
            "hetexp.attribution.odam:Odam",
            "Zhao, Hsiao and Chan, TPAMI 2024, doi:10.1109/TPAMI.2024.3380604",
            colour="#56B4E9",
            marker="^",
        ),
        MethodRecord("ours_abs", "Ours (abs)", _OURS_CLASS, _OURS, {"correction": "abs"}, colour="#009E73", marker="o"),
        MethodRecord("ours_pos", "Ours (pos)", _OURS_CLASS, _OURS, {"correction": "pos"}, colour="#0072B2", marker="D"),
        MethodRecord(
            "ours_noised",
            "Ours (noised)",
            _OURS_CLASS,
            _OURS,
            {"correction": "pos", "noise_link": "row"},
            colour="#D55E00",
            marker="v",
        ),
        MethodRecord(
            "ours_full",
            "Ours (full)",
            _OURS_CLASS,
            _OURS,
            {"correction": "full"},
            signed=True,
            colour="#CC79A7",
            marker="P",
        ),
        MethodRecord(
            "unit_free",
            "Unit-free (ours, not the paper's)",
            _OURS_CLASS,
            "this project; not in the paper",
            {"correction": "abs", "row_sum": 0.05},
            colour="#5E3C99",
            marker="8",
        ),
        MethodRecord(
            "raw_attention",
            "Raw attention",
            "hetexp.attribution.attention:RawAttention",
            _GAE,
            colour="#8C6D31",
            marker="x",
        ),
        MethodRecord(
            "rollout",
            "Rollout",
            "hetexp.attribution.attention:Rollout",
            "Abnar and Zuidema, ACL 2020, doi:10.18653/v1/2020.acl-main.385",
            colour="#6F6F6F",
            marker="+",
        ),
        MethodRecord(
            "grad_cam",
            "Grad-CAM",
            "hetexp.attribution.attention:GradCam",
            "Selvaraju et al., ICCV 2017, doi:10.1109/ICCV.2017.74",
            colour="#9467BD",
            marker="*",
        ),
        MethodRecord(
            "homologous",
            "Homologous part",
            "hetexp.attribution.homologous:Homologous",
            _OURS,
            colour="#66A61E",
            marker="$H$",
        ),
        MethodRecord(
            "mean_attention",
            "Mean attention",
            "hetexp.attribution.mean_attention:MeanAttention",
            "cf. Xiang, Li and Dai 2026, doi:10.48550/arXiv.2606.01601",
            colour="#B8860B",
            marker="1",
        ),
        MethodRecord(
            "value_weighted_gae",
            "GAE (values)",
            "hetexp.attribution.value_weighted:ValueWeightedGae",
            "cf. Kobayashi et al., EMNLP 2020, doi:10.18653/v1/2020.emnlp-main.574",
            colour="#A0522D",
            marker="2",
        ),
        MethodRecord(
            "value_gradient",
            "Gradient × attention × value",
            "hetexp.attribution.value_gradient:ValueGradient",
            "cf. Kobayashi et al., EMNLP 2020, doi:10.18653/v1/2020.emnlp-main.574",
            signed=True,
            colour="#C71585",
            marker="3",
        ),
        MethodRecord(
            "partial_lrp",
            "Partial LRP",
            "hetexp.attribution.lrp:PartialLrp",
            "Voita et al., ACL 2019, doi:10.18653/v1/P19-1580, as in GAE's code",
            signed=True,
            colour="#1B9E9E",
            marker="4",
        ),
        MethodRecord(
            "transformer_attribution",
            "Transformer attribution",
            "hetexp.attribution.lrp:TransformerAttribution",
            "Chefer, Gur and Wolf, CVPR 2021, doi:10.1109/CVPR46437.2021.00084, as in GAE's code",
            colour="#7B3F00",
            marker="|",
        ),
        MethodRecord("gae_lrp", "GAE (LRP)", "hetexp.attribution.lrp:GaeLrp", _GAE, colour="#F4A300", marker="_"),
        MethodRecord(
            "input_x_gradient",
            "Input × gradient",
            "hetexp.attribution.input_gradient:InputXGradient",
            "Shrikumar et al. 2016, doi:10.48550/arXiv.1605.01713",
            signed=True,
            colour="#4682B4",
            marker="H",
        ),
        MethodRecord(
            "integrated_gradients",
            "Integrated gradients",
            "hetexp.attribution.integrated_gradients:IntegratedGradients",
            "Sundararajan, Taly and Yan, ICML 2017, doi:10.48550/arXiv.1703.01365",
            signed=True,
            colour="#2E8B57",
            marker="$I$",
        ),
        MethodRecord(
            "cp_lrp",
            "CP-LRP",
            "hetexp.attribution.detached:DetachedGradient",
            "Ali et al., ICML 2022, doi:10.48550/arXiv.2202.07304",
            signed=True,
            colour="#8B0000",
            marker="$C$",
        ),
        MethodRecord(
            "libra_grad",
            "LibraGrad",
            "hetexp.attribution.detached:DetachedGradient",
            "Mehri, Soleymani Baghshah and Pilehvar, CVPR 2025, doi:10.1109/CVPR52734.2025.00016",
            {"gates": True},
            signed=True,
            colour="#FF6F61",
            marker="$L$",
        ),
        MethodRecord(
            "smooth_grad",
            "SmoothGrad",
            "hetexp.attribution.smooth_grad:SmoothGrad",
            "Smilkov et al. 2017, doi:10.48550/arXiv.1706.03825",
            colour="#6B8E23",
            marker="$S$",
        ),
        MethodRecord(
            "grad_eclip",
            "Grad-ECLIP",
            "hetexp.attribution.grad_eclip:GradEclip",
            "Zhao et al., ICML 2024, doi:10.48550/arXiv.2502.18816",
            colour="#8A2BE2",
            marker="$E$",
        ),
        MethodRecord(
            "token_tm",
            "TokenTM",
            "hetexp.attribution.token_tm:TokenTM",
            "Wu et al., CVPR 2024, doi:10.48550/arXiv.2403.14552",
            colour="#9C6B30",
            marker="$T$",
        ),
        MethodRecord(
            "legrad",
            "LeGrad",
            "hetexp.attribution.legrad:LeGrad",
            "Bousselham et al., ICCV 2025, doi:10.48550/arXiv.2404.03214",
            colour="#20603D",
            marker="$G$",
        ),
        MethodRecord(
            "beyond_intuition",
            "Beyond Intuition",
            "hetexp.attribution.beyond_intuition:BeyondIntuition",
            "Chen et al., TMLR 2023, https://openreview.net/forum?id=rm0zIzlhcX",
            colour="#A0305A",
            marker="$B$",
        ),
        MethodRecord(
            "d_rise",
            "D-RISE",
            "hetexp.attribution.d_rise:DRise",
            "Petsiuk et al., CVPR 2021, doi:10.1109/CVPR46437.2021.01128",
            colour="#555555",
            marker="$D$",
        ),
        MethodRecord(
            "atman",
            "AtMan",
            "hetexp.attribution.atman:AtMan",
            "cf. Deiseroth et al., NeurIPS 2023, doi:10.48550/arXiv.2301.08110",
            signed=True,
            colour="#00688B",
            marker="$A$",
        ),
        MethodRecord(
            "random",
            "Random (control)",
            "hetexp.attribution.control:Random",
            "uniform noise",
            control=True,
            colour="#000000",
            marker="",
        ),
    )
}


def register_method(record: MethodRecord) -> None:
    """Add a method of your own; it then works wherever methods are named.

    Raises:
        ConfigError: if the name is taken by another record.
    """
    if METHODS.setdefault(record.name, record) != record:
        raise ConfigError(f"method {record.name!r} exists already: choose another name")


def get_method(name: str) -> MethodRecord:
    """The record of that name.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}. Available methods: {', '.join(METHODS)}")
    return METHODS[name]


def parse_name(name: str) -> tuple[str, dict[str, Any]]:
    """Record's name and changed parameters behind a name as `variant_of` prints it.

    "ours_pos(y_unit=10,heads=first_half)" is ours_pos with two parameters changed.

    Raises:
        ConfigError: for an unknown record, and changes that do not read parameter=value.
    """
    variant = VARIANT.fullmatch(name)
    if variant is None:
        return get_method(name).name, {}
    try:
        changes = OmegaConf.to_container(OmegaConf.from_dotlist(variant["changes"].split(",")))
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(f"method {name!r} is no name with changes, e.g. ours_pos(y_unit=10): {error}") from error
    assert isinstance(changes, dict)
    return get_method(variant["base"]).name, {str(key): value for key, value in changes.items()}


def variant_of(record: MethodRecord, changes: Mapping[str, Any]) -> tuple[MethodRecord, str]:
    """Record and printed name of a method with changed parameters.

    Of all records of the class the one that differs least lends its name, the first of several: "ours_pos" with
    correction=abs is "ours_abs", and with noise_link=row besides it is "ours_abs(noise_link=row)". So the same
    parameters bear the same name whichever record they were reached from.
    """
    wanted = record.accepted() | dict(changes)

    def differing(other: MethodRecord) -> dict[str, Any]:
        values = other.accepted()
        return {k: v for k, v in wanted.items() if values[k] != v}

    same_class = [other for other in METHODS.values() if other.implementation == record.implementation]
    nearest = min([*same_class, record], key=lambda other: len(differing(other)))
    rest = differing(nearest)
    inside = ",".join(f"{k}={v}" for k, v in rest.items())
    return nearest, f"{nearest.name}({inside})" if rest else nearest.name
