"""Figures of scaling: speed-up and parallel efficiency over rank counts, with the ideal, the fitted law and the floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from results.plots import new_figure, title_of
from results.scaling_laws import Mode, speed_up
from results.svg import GROUND, MUTED, quiet_style, style, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Mapping[str, Any]


def speed_ups(found: Mapping[str, Any], index: Mapping[str, Any]) -> str | None:
    """Speed-up over the smallest count against ranks, both logarithmic; None where no curve has two counts."""
    curves = _drawable(found)
    if not curves:
        return None
    with quiet_style():
        figure = new_figure(5.4, 4.2)
        axes = figure.subplots()
        counts = _counts(curves)
        base = min(curve["base_ranks"] for curve in curves)
        axes.plot([base, counts[-1]], [1, counts[-1] / base], color=MUTED, lw=1.2, ls=(0, (4, 3)), label="ideal")
        for curve, colour, marker, name in _looks(curves, index):
            _points(axes, curve, "speed_up", colour, marker, name)
            serial = curve["law"]["serial"]
            if serial:
                grid = np.geomspace(curve["base_ranks"], _last(curve), 100)
                axes.plot(grid, speed_up(Mode(found["mode"]), serial["effect"], grid, curve["base_ranks"]), color=colour, lw=1.8)
        axes.set_yscale("log", base=2)
        lowest = min(point["speed_up"]["low"] or point["speed_up"]["effect"] for curve in curves for point in _known(curve))
        axes.set_ylim(0.9 * min(1.0, max(lowest, 0.05)), 1.1 * counts[-1] / base)
        _log2(axes, counts)
        axes.set_ylabel("speed-up of throughput" if found["mode"] == Mode.WEAK else "speed-up of the step")
        figure.legend(loc="outside lower center", ncols=2)
        return to_svg(figure, name="speed-up", label=f"{found['mode']} scaling: speed-up against ranks")


def efficiencies(found: Mapping[str, Any], index: Mapping[str, Any]) -> str | None:
    """Parallel efficiency against ranks, with the floor and where it is reached; None where no curve has two counts."""
    curves = _drawable(found)
    if not curves:
        return None
    with quiet_style():
        figure = new_figure(5.4, 4.2)
        axes = figure.subplots()
        counts = _counts(curves)
        axes.axhline(1, color=MUTED, lw=1.2, ls=(0, (4, 3)), label="ideal")
        axes.axhline(found["floor"], color=MUTED, lw=1.2, ls=(0, (1, 2)), label=f"floor {found['floor']:g}")
        highest = 1.0
        for curve, colour, marker, name in _looks(curves, index):
            _points(axes, curve, "efficiency", colour, marker, name)
            highest = max([highest, *(point["efficiency"]["high"] or point["efficiency"]["effect"] for point in _known(curve))])
            serial, base = curve["law"]["serial"], curve["base_ranks"]
            if serial:
                grid = np.geomspace(base, _last(curve), 100)
                axes.plot(grid, speed_up(Mode(found["mode"]), serial["effect"], grid, base) * base / grid, color=colour, lw=1.8)
            if curve["floor"]["ranks"] is not None:
                axes.plot([curve["floor"]["ranks"]] * 2, [0, found["floor"]], color=colour, lw=1.0, ls=(0, (1, 2)))
        axes.set_ylim(0, min(1.08 * highest, 1.6))
        _log2(axes, counts)
        axes.set_ylabel("parallel efficiency")
        figure.legend(loc="outside lower center", ncols=2)
        return to_svg(figure, name="efficiency", label=f"{found['mode']} scaling: parallel efficiency against ranks")


def _drawable(found: Mapping[str, Any]) -> list[Curve]:
    return [curve for curve in found["curves"] if len(_known(curve)) > 1]


def _known(curve: Curve) -> list[Mapping[str, Any]]:
    return [point for point in curve["points"] if point["speed_up"]]


def _counts(curves: Sequence[Curve]) -> list[int]:
    return sorted({point["ranks"] for curve in curves for point in _known(curve)})


def _last(curve: Curve) -> int:
    """The largest count that took part in the fit."""
    return max(int(point["ranks"]) for point in _known(curve) if not point["oversubscribed"])


def _looks(curves: Sequence[Curve], index: Mapping[str, Any]) -> list[tuple[Curve, str, str, str]]:
    """Each curve with its colour, marker and as short a name as tells it from the others."""
    parts = ("variant", "size", "engine", "site", "machine")
    differing = [part for part in parts if len({curve[part] for curve in curves}) > 1] or ["engine"]
    names = []
    for place, curve in enumerate(curves):
        words = [title_of(index, curve[part]) if part == "variant" else str(curve[part]) for part in differing]
        name = " ".join(words)
        names.append(name if name not in names else f"{name} ({place + 1})")  # options of an engine have no short name
    looks = style(names)
    return [(curve, *looks[name], name) for curve, name in zip(curves, names, strict=True)]


def _points(axes: Axes, curve: Curve, key: str, colour: str, marker: str, name: str) -> None:
    """Points with whiskers, joined by a thin line; hollow where ranks shared cores."""
    known = _known(curve)
    for shared in (False, True):
        chosen = [point for point in known if point["oversubscribed"] is shared]
        if not chosen:
            continue
        effects = [point[key]["effect"] for point in chosen]
        low = [0.0 if point[key]["low"] is None else point[key]["effect"] - point[key]["low"] for point in chosen]
        high = [0.0 if point[key]["high"] is None else point[key]["high"] - point[key]["effect"] for point in chosen]
        axes.errorbar(
            [point["ranks"] for point in chosen],
            effects,
            yerr=[low, high],
            fmt=marker,
            ms=6,
            mec=colour,
            mfc=GROUND if shared else colour,
            color=colour,
            elinewidth=1.2,
            capsize=3,
            label=f"{name}, ranks share cores" if shared else name,
            zorder=3,
        )
    axes.plot([p["ranks"] for p in known], [p[key]["effect"] for p in known], color=colour, lw=0.9, alpha=0.6, zorder=2)


def _log2(axes: Axes, counts: Sequence[int]) -> None:
    """Ranks on a logarithmic axis with a tick at each count that was measured."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xlim(counts[0] * 0.9, counts[-1] * 1.12)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("ranks")
