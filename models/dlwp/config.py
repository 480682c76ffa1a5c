"""What dlwp says of itself without torch: variants, sizes, metrics, presets, checks.

The Navier-Stokes experiments of Karlbauer et al. 2024 (arXiv 2407.14129); their weather experiment is the system
``dlwp_weather`` (:mod:`models.dlwp.weather`), which has the same backbones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from models.catalogue import Catalogue, Variant
from models.dlwp.checks import check_model, check_numbers, refuse
from models.dlwp.fields import Fields
from models.dlwp.presets import navier_stokes_preset
from results.errors import near_matches
from results.metrics import Direction, MetricSpec

SOURCES = ("generated", "path")

_PAPER = ("5k", "50k", "500k", "1M", "2M", "4M", "8M")
_SMALL = ("5k", "20k", "50k", "200k")


def _variant(
    name: str, title: str, *, paper: tuple[str, ...] = _PAPER, small: tuple[str, ...] = _SMALL, published: str = ""
) -> Variant:
    return Variant(
        name=name,
        title=title,
        sizes={"tiny": ("2k", "5k") if name == "fno2d" else ("5k",), "small": small, "paper": paper},
        default={"tiny": "5k", "small": "50k", "paper": "50k"},
        published_as=published,
    )


CATALOGUE = Catalogue(
    name="dlwp",
    title="Deep-learning weather prediction backbones",
    paper="Karlbauer et al., Comparing and Contrasting Deep Learning Weather Prediction Backbones on Navier-Stokes and "
    "Atmospheric Dynamics, arXiv 2407.14129 (2024)",
    version=1,
    kind="trained",
    variants=(
        _variant("unet", "U-Net"),
        _variant("convlstm", "ConvLSTM"),
        # The published code never switches the factorisation on: its "TFNO2D" rows are a dense FNO2D.
        _variant("fno2d", "FNO2D", paper=(*_PAPER, "16M", "32M"), small=("2k", *_SMALL), published="TFNO2D"),
        _variant("tfno2d", "TFNO2D (Tucker)", paper=(*_PAPER, "16M", "32M")),
        _variant("fno3d", "FNO3D", paper=(*_PAPER, "16M", "32M"), published="FNO3D L1-8"),
        _variant("tfno3d", "TFNO3D", paper=(*_PAPER, "16M", "32M"), published="TFNO3D L4"),
        _variant("fourcastnet", "FourCastNet"),
        _variant("swin", "Swin"),
        _variant("meshgraphnet", "MeshGraphNet"),
        _variant("ms_meshgraphnet", "MS MeshGraphNet"),
    ),
    metrics=(
        MetricSpec("rmse", "1", Direction.MIN, "closed-loop RMSE"),
        MetricSpec("persistence_rmse", "1", Direction.NONE, "RMSE of persistence"),
        MetricSpec("climatology_rmse", "1", Direction.NONE, "RMSE of climatology"),
        MetricSpec("skill_ratio", "1", Direction.MIN, "RMSE / persistence"),
        MetricSpec("val_rmse", "1", Direction.MIN, "validation RMSE, all outputs"),
    ),
    primary_metric="rmse",
)


@dataclass
class Data:
    """Trajectories of the Navier-Stokes equations on the unit torus, vorticity form, one frame per unit time.

    ``source=generated`` builds a store from the recipe (all keys up to ``float64``); ``source=path`` reads the user's own
    trajectories. The last three keys say how samples are cut from them.
    """

    source: str = "generated"  # generated | path
    path: Optional[str] = None  # noqa: UP045  folder or file of the user's own trajectories
    viscosity: float = 1e-3  # 1 / Reynolds number
    resolution: int = 32  # grid points per side
    frames: int = 20  # per trajectory
    train: int = 96  # trajectories
    val: int = 16
    test: int = 32
    alpha: float = 2.5  # smoothness of the random initial vorticity
    tau: float = 7.0  # its inverse length scale
    forcing: float = 0.1  # amplitude
    time_step: Optional[float] = None  # noqa: UP045  of the solver; null: from viscosity
    store_seed: int = 0
    float64: bool = False
    context: int = 4  # frames a non-recurrent backbone takes
    teacher_forcing: int = 4  # observed frames
    sequence: int = 11  # frames of a training sample or test window


def model_preset(variant: str, size: str, scale: str) -> Any:
    """The model's numbers.

    Raises:
        ConfigError: unknown variant, scale or size.
    """
    return navier_stokes_preset(variant, CATALOGUE.size(variant, size, scale), scale)


def fields(data: Data) -> Fields:
    """What a backbone is applied to."""
    return Fields.torus(data.resolution, data.context)


def check(point: Any) -> None:
    """Hold data and model against each other.

    Raises:
        ConfigError: the first impossible number or combination, with its key in ``where``.
    """
    _check_data(point.data)
    check_numbers(point.model)
    check_model(point.model, fields(point.data), where="data.resolution")


def _check_data(data: Data) -> None:
    if data.source not in SOURCES:
        refuse("data.source", f"data.source is '{data.source}'{near_matches(data.source, SOURCES)}")
    if data.source == "path" and not data.path:
        refuse("data.path", "data.source=path needs a path", "data.path=FOLDER")
    for key in ("resolution", "frames", "train", "val", "test", "context", "teacher_forcing", "sequence"):
        if getattr(data, key) < 1:
            refuse(f"data.{key}", f"data.{key} is {getattr(data, key)}; it must be at least 1")
    for key in ("viscosity", "alpha", "tau", "time_step"):
        value = getattr(data, key)
        if value is not None and value <= 0:
            refuse(f"data.{key}", f"data.{key} is {value}; it must be positive")
    if data.store_seed < 0:
        refuse("data.store_seed", f"data.store_seed is {data.store_seed}; it cannot be negative")
    if data.teacher_forcing < data.context:
        refuse(
            "data.teacher_forcing",
            f"{data.teacher_forcing} observed frames cannot fill a context of {data.context}",
            f"data.teacher_forcing={data.context}",
        )
    if data.sequence < data.teacher_forcing + 2:
        refuse(
            "data.sequence",
            f"a sequence of {data.sequence} frames leaves no closed-loop output after {data.teacher_forcing} observed ones",
            f"data.sequence={data.teacher_forcing + 2} or more",
        )
    if data.sequence > data.frames:
        refuse("data.sequence", f"a trajectory has {data.frames} frames, a sequence of {data.sequence} does not fit")
