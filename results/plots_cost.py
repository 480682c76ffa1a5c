"""Figures of cost: what each engine takes, and how far the plan was from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from results.plots import looks_of, new_figure, title_of
from results.svg import GROUND, INK, LIGHT, MUTED, quiet_style, to_svg


def engine_bars(equality: Mapping[str, Any]) -> str | None:
    """Step time (whisker: 5th to 95th percentile) and peak memory of each engine; hatched where the gate did not pass."""
    arms = [arm for arm in equality["arms"] if arm["step_s"] is not None and arm["peak_gib"] is not None]
    if not arms:
        return None
    names = [f"{arm['engine']} × {arm['ranks']}" for arm in arms]
    with quiet_style():
        figure = new_figure(7.4, 0.42 * len(arms) + 1.0)
        left, right = figure.subplots(1, 2, sharey=True)
        places = np.arange(len(arms))
        for axes, key, title, colour in (
            (left, "step_s", "step time, median [s]", "s0"),
            (right, "peak_gib", "peak memory [GiB]", "s1"),
        ):
            values = [arm[key] for arm in arms]
            bars = axes.barh(places, values, height=0.62, color=LIGHT[colour], alpha=0.85)
            for bar, arm, number in zip(bars, arms, values, strict=True):
                if not arm["reference"] and not (arm["gate"] and arm["gate"]["passed"]):
                    bar.set(hatch="///", facecolor="none", edgecolor=LIGHT[colour])
                axes.annotate(
                    f"{number:.3g}",
                    (0, bar.get_y() + 0.31),
                    xytext=(5, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                    color=GROUND if not bar.get_hatch() else INK,
                )
            axes.set_xlabel(title)
            axes.grid(axis="y", visible=False)
        known = [(i, arm) for i, arm in enumerate(arms) if arm["step_s_p5"] is not None and arm["step_s_p95"] is not None]
        left.errorbar(
            [arm["step_s"] for _, arm in known],
            [i for i, _ in known],
            xerr=[
                [arm["step_s"] - arm["step_s_p5"] for _, arm in known],
                [arm["step_s_p95"] - arm["step_s"] for _, arm in known],
            ],
            fmt="none",
            ecolor=INK,
            elinewidth=1.2,
            capsize=3,
        )
        left.set_yticks(places, names, color=INK)
        left.invert_yaxis()
        return to_svg(figure, name="engines", label="step time and peak memory of each engine")


def planned_against_measured(planner: Mapping[str, Any], index: Mapping[str, Any]) -> str | None:
    """Planned against measured peak memory, a point per run, with the 10 % band around equality."""
    points = [point for point in planner.get("peak", {}).get("points", ()) if point["measured"]]
    if not points:
        return None
    looks = looks_of(index, [point["variant"] for point in points])
    with quiet_style():
        figure = new_figure(5.4, 4.0)
        axes = figure.subplots()
        measured = np.array([point["measured"] for point in points])
        planned = measured * np.array([point["ratio"] for point in points])
        low, high = min(measured.min(), planned.min()) * 0.93, max(measured.max(), planned.max()) * 1.07
        line = np.array([low, high])
        axes.fill_between(line, line / 1.1, 1.1 * line, color=MUTED, alpha=0.12, lw=0, label="within 10 %")
        axes.plot(line, line, color=MUTED, lw=1)
        for name, (colour, marker) in looks.items():
            chosen = [i for i, point in enumerate(points) if point["variant"] == name]
            axes.plot(
                measured[chosen], planned[chosen], marker, ls="", color=colour, ms=5, alpha=0.85, label=title_of(index, name)
            )
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="measured peak [GiB]", ylabel="planned peak [GiB]")
        figure.legend(loc="outside lower center", ncols=3)
        return to_svg(figure, name="planned", label="planned against measured peak memory")
