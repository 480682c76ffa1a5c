"""What the weather experiment says of itself without torch: variants, sizes, metrics, presets, checks.

The WeatherBench half of Karlbauer et al. 2024 (arXiv 2407.14129): every backbone forecasts eight fields on a 5.625 degree grid,
six hours at a time. It shares the backbones with the Navier-Stokes half (:mod:`models.dlwp.config`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from models.catalogue import Catalogue, Variant
from models.dlwp.checks import check_model, check_numbers, refuse
from models.dlwp.fields import Fields
from models.dlwp.shapes import SFNO, Pangu
from models.dlwp.weather.presets import PAPER_SIZES, SMALL_SIZES, TINY_SIZES, paper_preset, small_preset
from models.dlwp.weather.supplied import CONSTANTS, SUPPLIED, not_supplied
from models.layers.boundary import Boundary
from results.errors import near_matches
from results.metrics import Direction, MetricSpec

SOURCES = ("generated", "path")
STATISTICS = ("published", "computed")
GRIDS = ("equiangular", "gaussian")
#: Lead times that metrics name, in hours.
LEADS_HOURS = (24, 72, 120)
HOURS_PER_FRAME, FRAMES_PER_DAY = 6, 4
#: Variants whose state lives on twelve faces instead of latitudes and longitudes.
ON_HEALPIX = ("convlstm_hpx", "unet_hpx", "swin_hpx")

_TITLES = {
    "convlstm": "ConvLSTM",
    "convlstm_hpx": "ConvLSTM HEALPix",
    "unet": "U-Net",
    "unet_hpx": "U-Net HEALPix",
    "swin": "Swin",
    "swin_hpx": "Swin HEALPix",
    "fno2d": "FNO2D",
    "tfno2d": "TFNO2D",
    "fourcastnet_p1x1": "FourCastNet 1x1",
    "fourcastnet_p2x4": "FourCastNet 2x4",
    "fourcastnet_p4x4": "FourCastNet 4x4",
    "sfno": "SFNO",
    "pangu": "Pangu-Weather",
    "meshgraphnet": "MeshGraphNet",
    "graphcast": "GraphCast",
}


def _metrics() -> list[MetricSpec]:
    found = []
    for hours in LEADS_HOURS:
        days = f"{hours // 24} d"
        found += [
            MetricSpec(f"rmse_z500_{hours}h", "m2/s2", Direction.MIN, f"z500 RMSE at {days}"),
            MetricSpec(f"persistence_rmse_z500_{hours}h", "m2/s2", Direction.NONE, f"z500 RMSE of persistence at {days}"),
            MetricSpec(f"acc_z500_{hours}h", "1", Direction.MAX, f"z500 anomaly correlation at {days}"),
            MetricSpec(f"rmse_t850_{hours}h", "K", Direction.MIN, f"t850 RMSE at {days}"),
        ]
    return [
        *found,
        MetricSpec("climatology_rmse_z500", "m2/s2", Direction.NONE, "z500 RMSE of the monthly climatology"),
        MetricSpec("skill_ratio_24h", "1", Direction.MIN, "z500 RMSE / persistence at 1 d"),
        MetricSpec("val_loss", "1", Direction.MIN, "validation loss"),
        MetricSpec("stable_days", "d", Direction.MAX, "time to blow-up, or the length of the rollout"),
        MetricSpec("u10_trades_rmse", "m/s", Direction.MIN, "u10 profile, trade winds, RMSE"),
        MetricSpec("u10_westerlies_rmse", "m/s", Direction.MIN, "u10 profile, South westerlies, RMSE"),
        MetricSpec("u10_profile_rmse", "m/s", Direction.MIN, "u10 profile, all latitudes, RMSE"),
        MetricSpec("z500_drift", "m2/s2", Direction.NONE, "global mean z500, end minus start"),
        MetricSpec("spectral_ratio_z500", "1", Direction.NONE, "z500 power at wavenumbers 10 and up, forecast / truth, 5 d"),
        MetricSpec("rollout_days_per_s", "d/s", Direction.MAX, "simulated days per second"),
        MetricSpec("crps_z500_72h", "m2/s2", Direction.MIN, "z500 CRPS of the ensemble at 3 d"),
        MetricSpec("spread_skill_z500_72h", "1", Direction.NONE, "z500 spread / skill at 3 d"),
    ]


CATALOGUE = Catalogue(
    name="dlwp_weather",
    title="Deep-learning weather prediction backbones, weather",
    paper="Karlbauer et al., Comparing and Contrasting Deep Learning Weather Prediction Backbones on Navier-Stokes and "
    "Atmospheric Dynamics, arXiv 2407.14129 (2024)",
    version=1,
    kind="trained",
    variants=tuple(
        Variant(
            name=name,
            title=title,
            sizes={"tiny": TINY_SIZES, "small": SMALL_SIZES, "paper": PAPER_SIZES[name]},
            default={"tiny": "5k", "small": "150k", "paper": "8M" if name == "fourcastnet_p2x4" else "2M"},
        )
        for name, title in _TITLES.items()
    ),
    metrics=tuple(_metrics()),
    primary_metric="rmse_z500_72h",
)


@dataclass
class Data:
    """Fields on a latitude-longitude grid every six hours.

    ``source=generated`` simulates a three-level quasi-geostrophic atmosphere, every calendar year of the three periods from a
    start of its own, and writes it as WeatherBench does; ``source=path`` reads the user's own copy of WeatherBench 1 or 2.
    """

    source: str = "generated"  # generated | path
    path: Optional[str] = None  # noqa: UP045  folder of the user's own data
    format: str = "wb2_zarr"  # wb1_netcdf | wb1_zarr | wb2_zarr; generated data are written so, too
    units: str = "geopotential"  # of z in the user's data: geopotential | height
    constants: list[str] = field(default_factory=lambda: ["orography", "lsm", "lat2d", "lon2d"])
    prescribed: list[str] = field(default_factory=lambda: ["tisr"])
    prognostic: list[str] = field(default_factory=lambda: ["t850", "t2m", "u10", "v10", "z300", "z500", "z700", "z1000"])
    train: list[str] = field(default_factory=lambda: ["1979-01-02", "2014-12-31"])  # first and last day
    val: list[str] = field(default_factory=lambda: ["2015-01-01", "2016-12-31"])
    test: list[str] = field(default_factory=lambda: ["2017-01-01", "2018-12-31"])
    statistics: str = "published"  # mean and standard deviation: published | computed (over the training period)
    latitudes: int = 32  # rows of the grid; twice as many columns
    grid: str = "equiangular"  # equiangular | gaussian
    nside: int = 8  # of the HEALPix variants
    # How samples are cut and rated.
    context: int = 1  # frames a model takes
    sequence: int = 5  # frames of a training window, context and targets
    stride: int = 5  # frames from one training window to the next
    legacy_offset: bool = False  # published: True but for ConvLSTM; the first target lies 12 h ahead
    latitude_loss: bool = False  # weight the loss by area; published: False
    zero_output: bool = False  # last layers start at zero, so that training starts at persistence
    recompute: bool = False  # activations of every rollout step are computed again in backward
    forecast_days: int = 14
    forecasts: int = 0  # test dates that are used, evenly chosen; 0: all
    long_days: int = 0  # length of a further, longer rollout; 0: none
    long_forecasts: int = 1  # its dates
    keep_forecasts: bool = False  # write test forecasts into the run folder as a WeatherBench 2 forecast store
    keep_rollouts: bool = False  # the longer rollouts, too
    acc_wb2: bool = False  # anomaly correlation as WeatherBench 2 has it, too
    ensemble: int = 1  # members of test forecasts, from perturbed first states
    perturbation: float = 0.02  # standard deviation of the perturbation, in those of the channels
    rate: Optional[str] = None  # noqa: UP045  evaluate this instead of training: weights (.pt), or a forecast store (zarr)
    # The generated atmosphere.
    days: int = 365  # simulated of every calendar year
    spin_up_days: int = 120
    store_seed: int = 0


def model_preset(variant: str, size: str, scale: str) -> Any:
    """The model's numbers.

    Raises:
        ConfigError: unknown variant, scale or size.
    """
    size = CATALOGUE.size(variant, size, scale)
    return paper_preset(variant, size) if scale == "paper" else small_preset(variant, size)


def fields(data: Data, variant: str) -> Fields:
    """What a backbone is applied to. Swin on HEALPix sees the faces as one map of three rows and four columns of faces."""
    moving = len(data.prescribed) + len(data.prognostic)
    rows, columns = data.latitudes, 2 * data.latitudes
    boundary, latitudes = Boundary.CYLINDER, tuple(latitudes_of(data))
    if variant in ON_HEALPIX:
        whole = variant == "swin_hpx"
        rows, columns = (3 * data.nside, 4 * data.nside) if whole else (data.nside, data.nside)
        boundary, latitudes = Boundary.HEALPIX, ()
    return Fields(
        inputs=len(data.constants) + data.context * moving,
        frame_inputs=len(data.constants) + moving,
        outputs=len(data.prognostic),
        height=rows,
        width=columns,
        boundary=boundary,
        latitudes_deg=latitudes,
        zero_output=data.zero_output,
    )


def latitudes_of(data: Data) -> list[float]:
    """Rows of the grid in degrees, south to north."""
    from models.dlwp.weather.grid import equiangular, gaussian

    return [float(row) for row in (gaussian if data.grid == "gaussian" else equiangular)(data.latitudes).latitudes]


def check(point: Any) -> None:
    """Hold data and model against each other.

    Raises:
        ConfigError: the first impossible number or combination, with its key in ``where``.
    """
    data, model = point.data, point.model
    _check_data(data)
    check_numbers(model)
    applied_to = fields(data, point.variant)
    check_model(model, applied_to, where="data.nside" if point.variant in ON_HEALPIX else "data.latitudes")
    _check_sphere(model, applied_to)


def _check_sphere(model: Any, applied_to: Fields) -> None:
    """Numbers of the backbones that only the sphere has."""
    if isinstance(model, SFNO) and model.degrees > applied_to.height:
        refuse("model.degrees", f"{model.degrees} degrees do not fit {applied_to.height} rows of latitude")
    if not isinstance(model, Pangu):
        return
    if len(model.heads) != 4:
        refuse("model.heads", f"four layers need as many numbers of heads, not {len(model.heads)}")
    for layer, heads in enumerate(model.heads):
        channels = model.embed * (1 if layer in (0, 3) else 2)
        if channels % heads:
            refuse("model.heads", f"{channels} channels of layer {layer} cannot be cut into {heads} equal heads")
    if model.drop_path >= 1:
        refuse("model.drop_path", f"model.drop_path is {model.drop_path}; it must be below 1")
    for side, points in (("height", applied_to.height), ("width", applied_to.width)):
        if points % (2 * model.patch):
            refuse("model.patch", f"patches of {model.patch} points, and four of them in one, do not tile a {side} of {points}")


def _check_data(data: Data) -> None:
    from models.dlwp.weather.calendar import day, initial_dates
    from models.dlwp.weather.channels import Role, channels
    from models.dlwp.weather.sources import FORMATS

    for key, known in {"source": SOURCES, "format": FORMATS, "statistics": STATISTICS, "grid": GRIDS}.items():
        value = getattr(data, key)
        if value not in known:
            refuse(f"data.{key}", f"data.{key} is '{value}'{near_matches(value, known)}")
    if data.source == "path" and not data.path:
        refuse("data.path", "data.source=path needs a path", "data.path=FOLDER")
    for key, role in {"constants": Role.CONSTANT, "prescribed": Role.PRESCRIBED, "prognostic": Role.PROGNOSTIC}.items():
        for entry in channels(getattr(data, key), where=f"data.{key}"):
            if entry.role is not role:
                refuse(f"data.{key}", f"channel '{entry.id}' is {entry.role}, not {role}")
            if data.statistics == "published" and entry.mean is None:
                what = f"no mean and standard deviation of '{entry.id}' were published"
                refuse("data.statistics", what, "data.statistics=computed")
            if data.source == "generated" and entry.id not in (*CONSTANTS, *SUPPLIED):
                raise not_supplied(entry.id, where=f"data.{key}")
    for needed in ("z500", "t850", "u10"):
        if needed not in data.prognostic:
            refuse("data.prognostic", f"forecasts are rated by {needed}, which data.prognostic leaves out")
    periods = {}
    for key in ("train", "val", "test"):
        value = getattr(data, key)
        if len(value) != 2:
            refuse(
                f"data.{key}", f"data.{key} is {value}; it takes a first and a last day", f"data.{key}=[1979-01-01,1979-12-31]"
            )
        first, last = (day(text, where=f"data.{key}") for text in value)
        if last < first:
            refuse(f"data.{key}", f"the period {value[0]} to {value[1]} ends before it begins")
        periods[key] = (first, last)
    for key, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if periods[key][0] <= periods[other][1] and periods[other][0] <= periods[key][1]:
            refuse(f"data.{other}", f"the periods of data.{key} and data.{other} share days")
    lowest = {"latitudes": 4, "nside": 1, "context": 1, "stride": 1, "forecast_days": 5, "days": 1, "ensemble": 1}
    for key, least in {**lowest, "long_forecasts": 1, "forecasts": 0, "long_days": 0, "spin_up_days": 0, "store_seed": 0}.items():
        if getattr(data, key) < least:
            refuse(f"data.{key}", f"data.{key} is {getattr(data, key)}; it must be at least {least}")
    simulated = data.source == "generated"
    for key, (first, last) in periods.items():
        year = first.astype("datetime64[Y]")
        into = int((first - year.astype("datetime64[D]")).astype(int))
        if simulated and year == last.astype("datetime64[Y]") and into >= data.days:
            refuse(f"data.{key}", f"of {year} only the first {data.days} days are simulated (data.days), none from {first} on")
    partly = simulated and data.days < 365 and data.forecast_days >= data.days
    if partly or not len(initial_dates(data.test[0], data.test[1], FRAMES_PER_DAY * data.forecast_days + 1)):
        refuse("data.forecast_days", f"no forecast of {data.forecast_days} days begins and ends within data.test")
    if data.sequence <= data.context:
        refuse("data.sequence", f"a window of {data.sequence} frames has no target after a context of {data.context}")
    if data.perturbation < 0:
        refuse("data.perturbation", f"data.perturbation is {data.perturbation}; it cannot be negative")
    if data.nside & (data.nside - 1):
        refuse("data.nside", f"data.nside is {data.nside}; it must be a power of two")
    if data.latitudes % 2:
        refuse("data.latitudes", f"data.latitudes is {data.latitudes}; it must be even")
