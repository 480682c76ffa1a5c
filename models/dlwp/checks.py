"""Holds a backbone's numbers against the grid it is to be applied to."""

from __future__ import annotations

from typing import Any

from models.dlwp.fields import Boundary, Fields
from models.dlwp.shapes import FNO2D, FNO3D, FourCastNet, MeshGraphNet, Swin, UNet
from results.errors import ConfigError, near_matches

#: Numbers that may be zero.
_FROM_ZERO = ("shrink", "window", "drop_path", "degrees", "level")
GRAPHS = ("grid", "multiscale", "delaunay")
ACTIVATIONS = ("relu", "silu")


def refuse(key: str, what: str, next_step: str = "") -> None:
    """Raise a ConfigError about a key."""
    raise ConfigError(what, where=key, next_step=next_step)


def check_numbers(model: Any) -> None:
    """All numbers of a model are large enough to mean something.

    Raises:
        ConfigError: the first that is not.
    """
    for key, value in vars(model).items():
        lowest = 0 if key in _FROM_ZERO else 1
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool) and number < lowest:
                refuse(f"model.{key}", f"model.{key} is {value}; it must be at least {lowest}")


def check_model(model: Any, fields: Fields, *, where: str) -> None:
    """The model fits the grid.

    Args:
        where: the key that sets the grid.

    Raises:
        ConfigError: the first number that does not.
    """
    sides = {"height": fields.height, "width": fields.width}
    match model:
        case UNet():
            _check_unet(model, sides, where)
        case FNO2D() | FNO3D():
            for side, points in sides.items():
                modes = getattr(model, f"modes_{side}")
                if modes > points:
                    refuse(f"model.modes_{side}", f"{modes} modes do not fit a {side} of {points} points")
        case FourCastNet():
            for side, points in sides.items():
                patch = getattr(model, f"patch_{side}")
                if points % patch:
                    refuse(f"model.patch_{side}", f"patches of {patch} points do not tile a {side} of {points}")
            if model.embed % model.blocks:
                refuse("model.blocks", f"{model.embed} channels cannot be cut into {model.blocks} equal blocks")
        case Swin():
            _check_swin(model, sides)
        case MeshGraphNet():
            _check_graph(model, fields)


def _check_unet(model: UNet, sides: dict[str, int], where: str) -> None:
    if len(model.channels) < 2:
        refuse("model.channels", "a U-Net has at least two levels")
    multiple = 2 ** (len(model.channels) - 1)
    for side, points in sides.items():
        if points % multiple:
            refuse(
                where, f"a U-Net of {len(model.channels)} levels needs a {side} that is a multiple of {multiple}, not {points}"
            )


def _check_swin(model: Swin, sides: dict[str, int]) -> None:
    if len(model.depths) != len(model.heads):
        refuse("model.heads", f"{len(model.depths)} stages need as many numbers of heads, not {len(model.heads)}")
    for stage, heads in enumerate(model.heads):
        if (model.embed << stage) % heads:
            refuse("model.heads", f"{model.embed << stage} channels of stage {stage} cannot be cut into {heads} equal heads")
    if model.drop_path >= 1:
        refuse("model.drop_path", f"model.drop_path is {model.drop_path}; it must be below 1")
    for side, points in sides.items():
        tokens = points // model.patch
        if points % model.patch or tokens % (1 << (len(model.depths) - 1)):
            refuse(
                "model.patch",
                f"patches of {model.patch} points and {len(model.depths)} stages do not tile a {side} of {points} points",
            )
        for stage in range(len(model.depths)):
            window = model.window >> stage * model.window_halves
            if model.window and (window < 1 or (tokens >> stage) % window):
                refuse("model.window", f"windows of {window} tokens do not tile {tokens >> stage} tokens of stage {stage}")


def _check_graph(model: MeshGraphNet, fields: Fields) -> None:
    if model.graph not in GRAPHS:
        refuse("model.graph", f"model.graph is '{model.graph}'{near_matches(model.graph, GRAPHS)}")
    if model.activation not in ACTIVATIONS:
        refuse("model.activation", f"model.activation is '{model.activation}'{near_matches(model.activation, ACTIVATIONS)}")
    if model.graph == "multiscale" and (fields.boundary is not Boundary.TORUS or fields.height % 2 or fields.width % 2):
        refuse("model.graph", "the multiscale graph is that of a torus with even sides")
    if fields.boundary is Boundary.HEALPIX:
        refuse("model.graph", "there is no graph of a HEALPix mesh")
