"""Pictures that a system leaves in ``artifacts/``: panels as numbers, drawn only when somebody looks.

A system writes rows of fields (truth, prediction, error) over columns (lead times); this module keeps them in one small file
and draws them. Rows named in ``shared`` (truth and prediction) have one colour range, so that they can be compared by eye;
every other row has its own, symmetric about zero where it holds both signs.
"""

from __future__ import annotations

import io
import textwrap
import zipfile
from collections.abc import Sequence
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
class Panels:
    """A picture's content.

    Attributes:
        values: float32 ``[row, column, height, width]``.
        units: of the values, for the colour bar.
        shared: rows that share one colour range.
    """

    name: str
    values: NDArray[np.float32]
    row_titles: tuple[str, ...]
    column_titles: tuple[str, ...]
    title: str
    units: str
    shared: tuple[int, ...]

    def ranges(self) -> list[tuple[float, float]]:
        """Colour range of each row, from its finite values."""
        own = [_range(self.values[row]) for row in range(len(self.row_titles))]
        together = _range(self.values[list(self.shared)]) if self.shared else (0.0, 1.0)
        return [together if row in self.shared else limits for row, limits in enumerate(own)]


def save_panels(
    folder: Path,
    name: str,
    *,
    panels: ArrayLike,
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    title: str,
    units: str,
    shared_rows: Sequence[int] | None = None,
) -> Path:
    """Write ``<folder>/<name>.npz`` atomically.

    Args:
        panels: ``[row, column, height, width]``, kept as float32.
        shared_rows: rows with one common colour range; by default all but the last (which is the error), all when there
            are fewer than three.

    Raises:
        ValueError: the shape does not match the titles.
        ResultError: the folder cannot be written.
    """
    values = np.asarray(panels, dtype=np.float32)
    if values.ndim != 4 or values.shape[:2] != (len(row_titles), len(column_titles)):
        raise ValueError(f"panels {values.shape} do not match {len(row_titles)} row and {len(column_titles)} column titles")
    rows = values.shape[0]
    shared = range(rows - 1 if rows > 2 else rows) if shared_rows is None else shared_rows
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        panels=values,
        row_titles=np.array(row_titles, dtype=str),
        column_titles=np.array(column_titles, dtype=str),
        title=np.array(title),
        units=np.array(units),
        shared_rows=np.array(list(shared), dtype=np.int64),
    )
    path = folder / f"{name}.npz"
    write_bytes(path, stream.getvalue())
    return path


def load_panels(path: Path) -> Panels:
    """Read a picture.

    Raises:
        ResultError: the file is missing, damaged, or no picture.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return Panels(
                name=path.stem,
                values=arrays["panels"],
                row_titles=tuple(str(text) for text in arrays["row_titles"]),
                column_titles=tuple(str(text) for text in arrays["column_titles"]),
                title=str(arrays["title"]),
                units=str(arrays["units"]),
                shared=tuple(int(row) for row in arrays["shared_rows"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ResultError(f"{path.name} is not a picture: {error}", where=str(path)) from error


def find_panels(folder: Path) -> list[Path]:
    """The pictures among a run's artifacts, by name."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                if "panels" in arrays.files:
                    found.append(path)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            continue
    return found


def render_png(path: Path, dark: bool = False) -> bytes:
    """Draw a picture as PNG, on a light or a dark ground."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from results.svg import DARK, LIGHT

    theme = DARK if dark else LIGHT
    figure = _draw(load_panels(path), ink=theme["ink"])
    figure.patch.set(facecolor=theme["ground"], alpha=1.0)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def render_svg(path: Path) -> str:
    """Draw a picture as SVG whose text follows the page's theme (:mod:`results.svg`); fields are embedded as PNG."""
    from results.svg import INK, to_svg

    panels = load_panels(path)
    name = f"picture-{path.parent.parent.name}-{panels.name}"  # <run>/artifacts/<name>.npz: unique in a page of many runs
    return to_svg(_draw(panels, ink=INK), name=name, label=f"{panels.title}: {', '.join(panels.row_titles)}")


def _draw(panels: Panels, *, ink: str) -> Figure:
    from matplotlib.figure import Figure

    rows, columns = panels.values.shape[:2]
    height, width = panels.values.shape[2:]
    cell = 1.35 if columns > 4 else 1.8
    figure = Figure(figsize=(columns * cell + 1.5, rows * cell * height / width + 0.5), layout="constrained", dpi=110)
    figure.patch.set_alpha(0.0)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    images: list[Any] = []
    for row, (low, high) in enumerate(panels.ranges()):
        colours = "RdBu_r" if low < 0 < high else "viridis"
        for column in range(columns):
            axis = axes[row, column]
            image = axis.imshow(
                panels.values[row, column], cmap=colours, vmin=low, vmax=high, origin="lower", interpolation="nearest"
            )
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
            if row == 0:
                title = textwrap.fill(panels.column_titles[column], width=int(cell * 11))  # about eleven characters an inch
                axis.set_title(title, fontsize=9, color=ink)
        axes[row, 0].set_ylabel(panels.row_titles[row], fontsize=9, color=ink)
        images.append(image)
    done: set[int] = set()
    for row in range(rows):
        if row in done:
            continue
        members = list(panels.shared) if row in panels.shared else [row]
        done.update(members)
        bar = figure.colorbar(images[row], ax=axes[members, :], fraction=0.04, pad=0.01, shrink=0.9)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=ink, length=2)
        bar.set_label(panels.units, fontsize=8, color=ink)
    return figure


def _range(values: NDArray[np.float32]) -> tuple[float, float]:
    """Lowest and highest finite value; symmetric about zero when both signs occur; never empty."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    return (low, high) if high > low else (low - 0.5, high + 0.5)
