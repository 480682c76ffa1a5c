"""How figures look: one palette for light and dark pages, and matplotlib figures turned into SVG that follows the page.

Figures are drawn with the colours of the light theme. :func:`to_svg` then replaces each of them by a CSS variable with that
colour as its fallback, so a page that defines the variables (the report) recolours the figure, and a bare file still looks
right. Text stays text, in the page's own font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Variables of a theme. The series colours are Okabe and Ito's (distinguishable with every common colour blindness), the
#: yellow darkened for a light ground.
LIGHT = {
    "ink": "#1c2430",
    "muted": "#5b6675",
    "grid": "#dde2e8",
    "ground": "#ffffff",
    "s0": "#0072b2",
    "s1": "#d55e00",
    "s2": "#009e73",
    "s3": "#b5629a",
    "s4": "#a67c00",
    "s5": "#3a99c9",
    "s6": "#7a5195",
    "s7": "#4d5d53",
}
DARK = {
    "ink": "#e6eaf0",
    "muted": "#9aa6b5",
    "grid": "#2f3845",
    "ground": "#12171e",
    "s0": "#56b4e9",
    "s1": "#ff8a3d",
    "s2": "#2fc59a",
    "s3": "#e39ac9",
    "s4": "#f0c419",
    "s5": "#8fd3f4",
    "s6": "#b99be0",
    "s7": "#a9bbb0",
}
INK, MUTED, GRID, GROUND = LIGHT["ink"], LIGHT["muted"], LIGHT["grid"], LIGHT["ground"]

#: Marker of each series: shape tells what colour alone must not.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")


def style(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each series, by its place in ``names`` (the study's order), the same in all figures."""
    # past eight the colours come again, each with the next marker: 64 looks
    return {name: (LIGHT[f"s{index % 8}"], MARKERS[(index + index // 8) % 8]) for index, name in enumerate(names)}


@contextmanager
def quiet_style() -> Iterator[None]:
    """Matplotlib settings of all figures, for the length of a block."""
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "text.color": INK,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "figure.dpi": 100,
    }
    with matplotlib.rc_context(settings):
        yield


def to_svg(figure: Figure, *, name: str, label: str) -> str:
    """Serialise a figure for use inside a page, or as a file.

    Args:
        name: made part of every id, so that several figures can share a page.
        label: what the figure shows, for those who cannot see it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\n\s*", "\n", text)
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    variables = {colour: f"var(--{variable}, {colour})" for variable, colour in LIGHT.items()}
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: variables.get(found.group(), found.group()), text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font, system-ui, sans-serif)", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)  # it would rule the whole page
    head, _, rest = text.partition(">")
    # the size in the page is the page's affair; the view box keeps the shape
    wide, high = (float(re.search(rf'{side}="([\d.]+)pt"', head).group(1)) for side in ("width", "height"))  # type: ignore[union-attr]
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    head += ' class="figure" role="img" stroke-linejoin="round" stroke-linecap="butt"'
    head += f' style="max-width: {wide * 4 / 3:.0f}px; aspect-ratio: {wide / high:.4f}"'
    return f"{head}>\n<title>{escape(label)}</title>{rest}"


def standalone(svg: str) -> str:
    """A file of its own: dark where the reader's system is dark."""
    variables = "".join(f"--{name}: {colour};" for name, colour in DARK.items())
    css = f"@media (prefers-color-scheme: dark) {{ svg {{ {variables} background: {DARK['ground']} }} }}"
    head, _, rest = svg.partition(">")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}>\n<style>{css}</style>{rest}'
