"""Curves that a system leaves in ``artifacts/``: lines over one axis (error by lead, wind by latitude, power by wavenumber).

They are kept as numbers and drawn only when somebody looks. Fields are in :mod:`results.pictures`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from results.errors import ResultError
from results.store import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """A picture's content: one panel per column title, the same lines in each.

    Attributes:
        x: ``[point]``.
        values: float64 ``[line, panel, point]``.
        log: which axes are logarithmic, some of ``x`` and ``y``.
    """

    name: str
    x: NDArray[np.float64]
    values: NDArray[np.float64]
    lines: tuple[str, ...]
    panels: tuple[str, ...]
    title: str
    x_label: str
    y_labels: tuple[str, ...]
    log: str


def save_curves(
    folder: Path,
    name: str,
    *,
    x: ArrayLike,
    lines: Mapping[str, ArrayLike],
    panels: Sequence[str],
    title: str,
    x_label: str,
    y_labels: Sequence[str],
    log: str = "",
) -> Path:
    """Write ``<folder>/<name>.npz`` atomically.

    Args:
        x: ``[point]``.
        lines: name to ``[panel, point]``; NaN leaves a gap.
        panels: title of each panel.
        y_labels: quantity and unit of each panel.

    Raises:
        ValueError: shapes do not match.
        ResultError: the folder cannot be written.
    """
    places = np.asarray(x, dtype=np.float64)
    values = np.stack([np.asarray(line, dtype=np.float64) for line in lines.values()])
    if values.shape[1:] != (len(panels), places.size) or len(y_labels) != len(panels):
        raise ValueError(f"lines {values.shape} do not match {len(panels)} panels of {places.size} points")
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        curves=values,
        x=places,
        lines=np.array(list(lines), dtype=str),
        panels_titles=np.array(panels, dtype=str),
        title=np.array(title),
        x_label=np.array(x_label),
        y_labels=np.array(y_labels, dtype=str),
        log=np.array(log),
    )
    path = folder / f"{name}.npz"
    write_bytes(path, stream.getvalue())
    return path


def load_curves(path: Path) -> Curves:
    """Read a picture.

    Raises:
        ResultError: the file is missing, damaged, or holds no curves.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return Curves(
                name=path.stem,
                x=arrays["x"],
                values=arrays["curves"],
                lines=tuple(str(text) for text in arrays["lines"]),
                panels=tuple(str(text) for text in arrays["panels_titles"]),
                title=str(arrays["title"]),
                x_label=str(arrays["x_label"]),
                y_labels=tuple(str(text) for text in arrays["y_labels"]),
                log=str(arrays["log"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ResultError(f"{path.name} holds no curves: {error}", where=str(path)) from error


def find_curves(folder: Path) -> list[Path]:
    """The curves among a run's artifacts, by name."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                if "curves" in arrays.files:
                    found.append(path)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            continue
    return found


def render_svg(path: Path) -> str:
    """Draw as SVG whose text and lines follow the page's theme (:mod:`results.svg`)."""
    from results.svg import to_svg

    curves = load_curves(path)
    name = f"curves-{path.parent.parent.name}-{curves.name}"
    return to_svg(_draw(curves), name=name, label=f"{curves.title}: {', '.join(curves.lines)}")


def render_png(path: Path) -> bytes:
    """Draw as PNG on a light ground."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from results.svg import GROUND

    figure = _draw(load_curves(path))
    figure.patch.set(facecolor=GROUND, alpha=1.0)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def _draw(curves: Curves) -> Figure:
    from matplotlib.figure import Figure

    from results.svg import quiet_style, style

    with quiet_style():
        count = len(curves.panels)
        figure = Figure(figsize=(3.4 * count + 0.6, 2.7), layout="constrained", dpi=110)
        figure.patch.set_alpha(0.0)
        looks = style(curves.lines)
        axes: Any = figure.subplots(1, count, squeeze=False)[0]
        for panel, axis in enumerate(axes):
            for line, values in zip(curves.lines, curves.values[:, panel], strict=True):
                axis.plot(curves.x, np.where(np.isfinite(values), values, np.nan), color=looks[line][0], label=line)
            axis.set_title(curves.panels[panel])
            axis.set_xlabel(curves.x_label)
            axis.set_ylabel(curves.y_labels[panel])
            axis.set_xscale("log" if "x" in curves.log else "linear")
            axis.set_yscale("log" if "y" in curves.log else "linear")
        axes[0].legend(frameon=False, fontsize=8)
        return figure
