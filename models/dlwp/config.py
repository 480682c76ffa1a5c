"""What dlwp says of itself without torch: variants, sizes, metrics, presets, checks.

Numbers are those of Karlbauer et al. 2024 (arXiv 2407.14129) for Navier-Stokes at ``scale=paper``; ``small`` is a family for a
32x32 grid and two CPU cores, ``tiny`` is for tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from models.catalogue import Catalogue, Variant
from results.errors import ConfigError, near_matches
from results.metrics import Direction, MetricSpec

SOURCES = ("generated", "path")

_PAPER = ("5k", "50k", "500k", "1M", "2M", "4M", "8M")
_SMALL = ("5k", "20k", "50k")


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
        _variant("fno2d", "FNO2D", paper=(*_PAPER, "16M", "32M"), small=("2k", *_SMALL, "200k"), published="TFNO2D"),
        _variant("tfno2d", "TFNO2D (Tucker)", paper=(*_PAPER, "16M", "32M")),
        _variant("fourcastnet", "FourCastNet"),
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


@dataclass
class UNet:
    """Five levels in the paper; widths from the finest level down."""

    channels: list[int] = field(default_factory=lambda: [3, 6, 12, 24, 48])
    context: int = 4


@dataclass
class ConvLSTM:
    """Cells of equal width."""

    hidden: int = 13
    layers: int = 4


@dataclass
class FNO2D:
    """Fourier neural operator with dense weights."""

    width: int = 12
    layers: int = 4
    modes_height: int = 8  # wavenumbers kept along the height, both signs counted
    modes_width: int = 8  # likewise; modes_width // 2 + 1 are stored
    lifting: int = 64  # hidden channels of the lifting perceptron
    projection: int = 64
    context: int = 4


@dataclass
class TFNO2D(FNO2D):
    """The same with Tucker-factorised weights."""

    rank_channels: int = 12  # of the input and of the output channels
    rank_height: int = 7
    rank_width: int = 4


@dataclass
class FourCastNet:
    """Adaptive Fourier neural operator on patches."""

    embed: int = 40
    layers: int = 2
    patch: int = 2  # grid points per side
    blocks: int = 4  # of the block-diagonal mixing weights
    mlp_ratio: int = 4
    shrink: float = 0.01  # soft-thresholding of Fourier coefficients
    mixer_skip: bool = True  # published: the mixer adds its own normalised input, besides the block's skip
    resolution: int = 32  # grid points per side: sizes the positional embedding
    context: int = 4


_UNET_PAPER: dict[str, int | tuple[int, ...]] = {
    "5k": (1, 2, 4, 8, 8),
    "50k": 3,
    "500k": 8,
    "1M": 12,
    "2M": 16,
    "4M": 23,
    "8M": 33,
}
_UNET_SMALL: dict[str, int | tuple[int, ...]] = {"5k": (1, 2, 4, 8, 8), "20k": (2, 4, 8, 16, 24), "50k": (3, 6, 12, 24, 48)}
_CONVLSTM_PAPER = {"5k": 4, "50k": 13, "500k": 40, "1M": 57, "2M": 81, "4M": 114, "8M": 162}
_CONVLSTM_SMALL = {"5k": 4, "20k": 8, "50k": 13}
_FNO_PAPER = {"5k": 2, "50k": 8, "500k": 27, "1M": 38, "2M": 54, "4M": 77, "8M": 108, "16M": 154, "32M": 217}
_FNO_SMALL = {"2k": 2, "5k": 4, "20k": 8, "50k": 12, "200k": 24}
#: (width, channel rank, height rank, width rank): half the entries of a dense weight of that width; at 5k, where lifting and
#: projection hold most parameters, the ranks that meet the budget.
_TFNO_PAPER = {
    "5k": (2, 2, 3, 2),
    "50k": (11, 9, 10, 6),
    "500k": (37, 31, 10, 6),
    "1M": (53, 44, 10, 6),
    "2M": (75, 62, 10, 6),
    "4M": (106, 88, 10, 6),
    "8M": (150, 125, 10, 6),
    "16M": (213, 177, 10, 6),
    "32M": (302, 251, 10, 6),
}
_TFNO_SMALL = {"5k": (5, 4, 6, 4), "20k": (10, 8, 7, 4), "50k": (17, 14, 7, 4)}
_AFNO_PAPER = {"5k": (12, 1), "50k": (64, 1), "500k": (112, 4), "1M": (160, 4), "2M": (232, 4), "4M": (328, 4), "8M": (468, 4)}
_AFNO_SMALL = {"5k": (12, 1), "20k": (24, 2), "50k": (40, 2)}


def _unet_channels(spec: int | tuple[int, ...]) -> list[int]:
    return [spec * 2**level for level in range(5)] if isinstance(spec, int) else list(spec)


def model_preset(variant: str, size: str, scale: str) -> Any:
    """The model's numbers.

    Raises:
        ConfigError: unknown variant, scale or size.
    """
    size = CATALOGUE.size(variant, size, scale)
    paper = scale == "paper"
    context = 10 if paper else 4
    if variant == "unet":
        return UNet(channels=_unet_channels((_UNET_PAPER if paper else _UNET_SMALL)[size]), context=context)
    if variant == "convlstm":
        return ConvLSTM(hidden=(_CONVLSTM_PAPER if paper else _CONVLSTM_SMALL)[size])
    if variant == "fourcastnet":
        embed, layers = (_AFNO_PAPER if paper else _AFNO_SMALL)[size]
        resolution = {"tiny": 16, "small": 32, "paper": 64}[scale]
        return FourCastNet(embed=embed, layers=layers, patch=4 if paper else 2, resolution=resolution, context=context)
    modes, hidden = (12, 256) if paper else (8, 64)
    common = {"modes_height": modes, "modes_width": modes, "lifting": hidden, "projection": hidden, "context": context}
    if variant == "fno2d":
        return FNO2D(width=(_FNO_PAPER if paper else _FNO_SMALL)[size], **common)
    width, rank_channels, rank_height, rank_width = (_TFNO_PAPER if paper else _TFNO_SMALL)[size]
    return TFNO2D(width=width, rank_channels=rank_channels, rank_height=rank_height, rank_width=rank_width, **common)


def check(point: Any) -> None:
    """Hold data and model against each other.

    Raises:
        ConfigError: the first impossible number or combination, with its key in ``where``.
    """
    data, model = point.data, point.model
    _check_data(data)
    for key, value in vars(model).items():
        if isinstance(value, bool):
            continue
        for number in value if isinstance(value, list) else [value]:
            lowest = 0 if key == "shrink" else 1
            if number < lowest:
                _refuse(f"model.{key}", f"model.{key} is {value}; it must be at least {lowest}")
    resolution = data.resolution
    if getattr(model, "context", data.context) != data.context:
        _refuse(
            "model.context",
            f"the model takes {model.context} frames, the data section gives it {data.context}",
            f"data.context={model.context} or model.context={data.context}",
        )
    if isinstance(model, UNet):
        if len(model.channels) < 2:
            _refuse("model.channels", "a U-Net has at least two levels")
        multiple = 2 ** (len(model.channels) - 1)
        if resolution % multiple:
            _refuse(
                "data.resolution",
                f"a U-Net of {len(model.channels)} levels needs a multiple of {multiple} points per side, not {resolution}",
            )
    elif isinstance(model, FNO2D):
        for key in ("modes_height", "modes_width"):
            if getattr(model, key) > resolution:
                _refuse(f"model.{key}", f"{getattr(model, key)} modes do not fit a grid of {resolution} points per side")
    elif isinstance(model, FourCastNet):
        if model.resolution != resolution:
            _refuse(
                "model.resolution",
                f"the positional embedding is for {model.resolution} points per side, the data have {resolution}",
                f"model.resolution={resolution}",
            )
        if resolution % model.patch:
            _refuse("model.patch", f"patches of {model.patch} points do not tile {resolution} points per side")
        if model.embed % model.blocks:
            _refuse("model.blocks", f"{model.embed} channels cannot be cut into {model.blocks} equal blocks")


def _check_data(data: Data) -> None:
    if data.source not in SOURCES:
        _refuse("data.source", f"data.source is '{data.source}'{near_matches(data.source, SOURCES)}")
    if data.source == "path" and not data.path:
        _refuse("data.path", "data.source=path needs a path", "data.path=FOLDER")
    for key in ("resolution", "frames", "train", "val", "test", "context", "teacher_forcing", "sequence"):
        if getattr(data, key) < 1:
            _refuse(f"data.{key}", f"data.{key} is {getattr(data, key)}; it must be at least 1")
    for key in ("viscosity", "alpha", "tau", "time_step"):
        value = getattr(data, key)
        if value is not None and value <= 0:
            _refuse(f"data.{key}", f"data.{key} is {value}; it must be positive")
    if data.store_seed < 0:
        _refuse("data.store_seed", f"data.store_seed is {data.store_seed}; it cannot be negative")
    if data.teacher_forcing < data.context:
        _refuse(
            "data.teacher_forcing",
            f"{data.teacher_forcing} observed frames cannot fill a context of {data.context}",
            f"data.teacher_forcing={data.context}",
        )
    if data.sequence < data.teacher_forcing + 2:
        _refuse(
            "data.sequence",
            f"a sequence of {data.sequence} frames leaves no closed-loop output after {data.teacher_forcing} observed ones",
            f"data.sequence={data.teacher_forcing + 2} or more",
        )
    if data.sequence > data.frames:
        _refuse("data.sequence", f"a trajectory has {data.frames} frames, a sequence of {data.sequence} does not fit")


def _refuse(key: str, what: str, next_step: str = "") -> None:
    raise ConfigError(what, where=key, next_step=next_step)
