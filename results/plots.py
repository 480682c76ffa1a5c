"""The figures of accuracy, drawn from a study's analysis by matplotlib without global state, as SVG text (:mod:`results.svg`).

Every variant keeps one colour and one marker in all figures, so no reading depends on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from results.metrics import spec_of
from results.published import published_size
from results.runfolder import RunFolder
from results.series import read_run_steps
from results.svg import GROUND, INK, MUTED, quiet_style, style, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_LOG = "log"


def label(metric: str, index: Mapping[str, Any]) -> str:
    """Axis label: the metric's title with its unit."""
    declared = index.get("metrics", {}).get(metric)
    title, unit = (declared["title"], declared["unit"]) if declared else (spec_of(metric).title, spec_of(metric).unit)
    return title if unit in {"", "1"} else f"{title} [{unit}]"


def error_against_parameters(fits: Sequence[Mapping[str, Any]], index: Mapping[str, Any]) -> str:
    """Error against parameters: seeds as points (hollow: no skill), their mean, the fitted curve with its 95 % band."""
    looks = looks_of(index, [fit["group"] for fit in fits])
    with quiet_style():
        figure = new_figure(7.4, 4.5)
        axes = figure.subplots()
        references = []
        for fit in fits:
            colour, marker = looks[fit["group"]]
            points = fit["points"]
            references += [point["reference"] for point in points if point["reference"]]
            for skill in (True, False):
                chosen = [point for point in points if point["skill"] is skill]
                face = colour if skill else GROUND
                axes.plot(
                    [point["x"] for point in chosen],
                    [point["y"] for point in chosen],
                    marker,
                    ms=5,
                    mfc=face,
                    mec=colour,
                    mew=1.2,
                    alpha=0.9,
                    ls="",
                    zorder=3,
                )
            means = _means((point["x"], point["y"]) for point in points if point["skill"])
            axes.plot(*means, color=colour, lw=1.2, alpha=0.55, zorder=2)
            drawn = fit["aicc_gain"] is not None  # below five sizes the curve has as many parameters as points
            if drawn and fit["curve"]:
                axes.fill_between(
                    fit["curve"]["params"], fit["curve"]["low"], fit["curve"]["high"], color=colour, alpha=0.12, lw=0
                )
            if drawn and fit["robust"]:
                grid = np.geomspace(means[0][0], means[0][-1], 100)
                axes.plot(grid, _predict(fit["robust"], grid), color=colour, lw=2.0, zorder=2)
            axes.plot([], [], color=colour, marker=marker, ms=5, lw=2, label=f"{title_of(index, fit['group'])}: {fit['verdict']}")
        if references:
            level = float(np.median(references))
            axes.axhline(level, color=MUTED, lw=1.2, ls=(0, (4, 3)))
            axes.annotate(
                "persistence",
                (1, level),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                color=MUTED,
                fontsize=9,
            )
        _log_axes(axes)
        axes.set_xlabel(label(fits[0]["x"], index))
        axes.set_ylabel(label(fits[0]["y"], index))
        figure.legend(loc="outside right upper", handlelength=2.2)
        return to_svg(figure, name=f"fit-{fits[0]['y']}", label=f"{fits[0]['y']} against {fits[0]['x']}, by variant, with fits")


def front(entry: Mapping[str, Any], index: Mapping[str, Any]) -> str:
    """One metric against another, a point per experiment; the Pareto front is ringed, joined and labelled with its size."""
    points = entry["points"]
    looks = looks_of(index, [point["variant"] for point in points])
    with quiet_style():
        figure = new_figure(5.4, 4.0)
        axes = figure.subplots()
        for name, (colour, marker) in looks.items():
            for skill in (True, False):
                chosen = [point for point in points if point["variant"] == name and point["skill"] is skill]
                if chosen:
                    axes.plot(
                        [point["x"] for point in chosen],
                        [point["y"] for point in chosen],
                        marker,
                        ls="",
                        ms=6,
                        mfc=colour if skill else GROUND,
                        mec=colour,
                        mew=1.2,
                        zorder=3,
                    )
            axes.plot([], [], marker, color=colour, ls="", ms=6, label=title_of(index, name))
        best = sorted((point for point in points if point["front"]), key=lambda point: point["x"])
        axes.plot(
            [point["x"] for point in best],
            [point["y"] for point in best],
            color=INK,
            lw=1.2,
            ls=(0, (2, 2)),
            marker="o",
            ms=12,
            mfc="none",
            mew=1.0,
            label="Pareto front",
            zorder=2,
        )
        for point in best:
            axes.annotate(
                point["size"], (point["x"], point["y"]), xytext=(7, 5), textcoords="offset points", fontsize=8, color=MUTED
            )
        _log_axes(axes)
        axes.set_xlabel(label(entry["x"], index))
        axes.set_ylabel(label(entry["y"], index))
        figure.legend(loc="outside lower center", ncols=3)
        return to_svg(
            figure, name=f"front-{entry['x']}-{entry['y']}", label=f"{entry['y']} against {entry['x']} with the Pareto front"
        )


def training_curves(rows: Sequence[Mapping[str, Any]], runs_root: Path, index: Mapping[str, Any]) -> str | None:
    """Training loss by step, a panel per size, a line per run; None where no run left its steps."""
    curves = []
    for row in rows:
        steps = read_run_steps(RunFolder(runs_root / row["run"]))
        if steps["step"].size > 1:
            curves.append((row, steps["step"], steps["loss"]))
    if not curves:
        return None
    params: dict[str, float] = {}  # a failed run does not know its parameters; others of its size do
    for row, _, _ in curves:
        params[row["size"]] = max(params.get(row["size"], 0.0), row["metrics"].get("params") or 0.0)
    sizes = sorted(params, key=lambda size: params[size])
    looks = looks_of(index, [row["variant"] for row, _, _ in curves])
    with quiet_style():
        columns = min(3, len(sizes))
        lines = -(-len(sizes) // columns)
        figure = new_figure(3.1 * columns, 2.5 * lines + 0.5)
        grid: Any = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes, size in zip(grid.flat, sizes, strict=False):
            axes.set_title(size)
            for row, step, loss in curves:
                if row["size"] == size:
                    step, loss = _thin(step, loss)
                    axes.plot(step, loss, color=looks[row["variant"]][0], lw=1.1, alpha=0.85)
            axes.set_yscale(_LOG)
        _plain_ticks(grid[0, 0].yaxis)
        for axes in list(grid.flat)[len(sizes) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("training loss")
        for axes in list(grid.flat)[max(0, len(sizes) - columns) : len(sizes)]:  # the lowest panel of each column
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("step")
        for name, (colour, _) in looks.items():
            grid[0, 0].plot([], [], color=colour, lw=2, label=title_of(index, name))
        figure.legend(loc="outside lower center", ncols=5)
        return to_svg(figure, name="training", label="training loss by step, a panel per size")


def published_curves(rows: Sequence[Mapping[str, Any]], metric: str, index: Mapping[str, Any]) -> str | None:
    """The papers' numbers in a figure of their own, a panel per experiment; open marks and thin lines, as printed."""
    rows = [{**row, "params": published_size(row)} for row in rows if row["metric"] == metric and row["value"]]
    rows = [row for row in rows if row["params"]]
    experiments = list(dict.fromkeys(row["experiment"] for row in rows))
    if not rows:
        return None
    names = list(dict.fromkeys(row["published_as"] or row["variant"] for row in rows))
    looks = style(names)
    with quiet_style():
        columns = min(3, len(experiments))
        lines = -(-len(experiments) // columns)
        figure = new_figure(3.1 * columns, 2.7 * lines + 0.7)
        grid: Any = figure.subplots(lines, columns, squeeze=False)
        for axes, experiment in zip(grid.flat, experiments, strict=False):
            for name in names:
                chosen = sorted(
                    (row["params"], row["value"])
                    for row in rows
                    if row["experiment"] == experiment and (row["published_as"] or row["variant"]) == name
                )
                colour, marker = looks[name]
                if chosen:
                    axes.plot(*zip(*chosen, strict=True), marker=marker, ms=5, mfc=GROUND, mec=colour, color=colour, lw=0.9)
            axes.set_title(experiment)
            _log_axes(axes)
            axes.set_xlabel("parameters, as published")
        for axes in list(grid.flat)[len(experiments) :]:
            axes.set_visible(False)
        grid[0, 0].set_ylabel(f"{label(metric, index)}, published")
        for name, (colour, marker) in looks.items():
            grid[0, 0].plot([], [], marker=marker, ms=5, mfc=GROUND, mec=colour, color=colour, lw=0.9, label=name)
        figure.legend(loc="outside lower center", ncols=4)
        return to_svg(figure, name=f"published-{metric}", label=f"published {metric} against published parameters")


def looks_of(index: Mapping[str, Any], names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of the variants that occur; by their place in the study, so that all figures agree."""
    present = dict.fromkeys(names)
    known = [*index.get("variants", {}), *(name for name in present if name not in index.get("variants", {}))]
    return {name: look for name, look in style(known).items() if name in present}


def title_of(index: Mapping[str, Any], variant: str) -> str:
    """What the study calls a variant."""
    return str(index.get("variants", {}).get(variant, variant))


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, without global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _log_axes(axes: Axes) -> None:
    """Logarithmic axes labelled in plain numbers: 20k, 1M, 0.05."""
    axes.set_xscale(_LOG)
    axes.set_yscale(_LOG)
    _plain_ticks(axes.xaxis)
    _plain_ticks(axes.yaxis)


def _plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis: as many per decade as there is room for, with the digits that tell them apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    decades = float(np.log10(high / low))
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 1.2 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(MaxNLocator(5) if decades < 0.4 else LogLocator(subs=subs))
    digits = 3 if decades > 0.1 else 3 - math.floor(math.log10(max(decades, 1e-6)))
    axis.set_major_formatter(FuncFormatter(lambda number, _: short(number, digits)))
    axis.set_minor_formatter(NullFormatter())


def short(number: float, digits: int = 3) -> str:
    """A tick's text: ``20k``, ``1M``, ``0.05``."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.{max(digits, 6)}g}{suffix}"
    return f"{number:.{digits}g}"


def _means(points: Any) -> tuple[list[float], list[float]]:
    groups: dict[float, list[float]] = {}
    for x, y in points:
        groups.setdefault(x, []).append(y)
    xs = sorted(groups)
    return xs, [float(np.exp(np.mean(np.log(groups[x])))) for x in xs]


def _predict(law: Mapping[str, float], params: Any) -> Any:
    from results.fits import PowerLaw

    return PowerLaw(**law).predict(params)


def _thin(step: Any, loss: Any, points: int = 150) -> tuple[Any, Any]:
    """At most ``points`` values: means over equal windows, so that a line stays the curve and not its noise."""
    if len(step) <= points:
        return step, loss
    windows = np.array_split(np.arange(len(step)), points)
    return np.array([step[w].mean() for w in windows]), np.array([np.nanmean(loss[w]) for w in windows])
