"""Numbers behind the sizes of the Navier-Stokes backbones.

``paper`` are the published configurations of Karlbauer et al. 2024 (arXiv 2407.14129), widths solved to the budget where none was
published; ``small`` is a family for a 32x32 grid and two CPU cores, ``tiny`` takes its smallest.
"""

from __future__ import annotations

from typing import Any

from models.dlwp.shapes import FNO2D, FNO3D, TFNO2D, TFNO3D, ConvLSTM, FourCastNet, MeshGraphNet, Swin, UNet

#: Widths from the finest level down; a number doubles from level to level.
_UNET_PAPER: dict[str, int | tuple[int, ...]] = {
    "5k": (1, 2, 4, 8, 8),
    "50k": 3,
    "500k": 8,
    "1M": 12,
    "2M": 16,
    "4M": 23,
    "8M": 33,
}
_UNET_SMALL: dict[str, int | tuple[int, ...]] = {
    "5k": (1, 2, 4, 8, 8),
    "20k": (2, 4, 8, 16, 24),
    "50k": (3, 6, 12, 24, 48),
    "200k": 5,
}
_CONVLSTM_PAPER = {"5k": 4, "50k": 13, "500k": 40, "1M": 57, "2M": 81, "4M": 114, "8M": 162}
_CONVLSTM_SMALL = {"5k": 4, "20k": 8, "50k": 13, "200k": 25}
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
_TFNO_SMALL = {"5k": (5, 4, 6, 4), "20k": (10, 8, 7, 4), "50k": (17, 14, 7, 4), "200k": (34, 28, 7, 4)}
#: (width, modes of every dimension, layers, lifting and projection).
_FNO3D_PAPER = {
    "5k": (11, 3, 1, 32),
    "50k": (32, 3, 1, 256),
    "500k": (32, 7, 1, 256),
    "1M": (32, 10, 1, 256),
    "2M": (32, 12, 1, 256),
    "4M": (32, 12, 2, 256),
    "8M": (32, 12, 4, 256),
    "16M": (32, 12, 8, 256),
    "32M": (32, 12, 16, 256),
}
#: Four layers of 12 modes; 5k has none, and is the shape with one layer.
_TFNO3D_PAPER = {
    "5k": (11, 3, 1, 32),
    "50k": (2, 12, 4, 256),
    "500k": (8, 12, 4, 256),
    "1M": (11, 12, 4, 256),
    "2M": (16, 12, 4, 256),
    "4M": (22, 12, 4, 256),
    "8M": (32, 12, 4, 256),
    "16M": (45, 12, 4, 256),
    "32M": (63, 12, 4, 256),
}
#: (width, time modes, height and width modes, layers, lifting and projection).
_FNO3D_SMALL = {"5k": (6, 4, 4, 1, 64), "20k": (7, 4, 6, 2, 64), "50k": (7, 4, 8, 3, 64), "200k": (12, 4, 8, 4, 64)}
_AFNO_PAPER = {"5k": (12, 1), "50k": (64, 1), "500k": (112, 4), "1M": (160, 4), "2M": (232, 4), "4M": (328, 4), "8M": (468, 4)}
_AFNO_SMALL = {"5k": (12, 1), "20k": (24, 2), "50k": (40, 2), "200k": (96, 2)}
#: (embedding, depths, heads).
_SWIN_PAPER: dict[str, tuple[int, list[int], list[int]]] = {
    "5k": (8, [1], [1]),
    "50k": (8, [2, 2], [4, 4]),
    "500k": (40, [4, 4], [4, 4]),
    "1M": (60, [4, 4], [4, 4]),
    "2M": (88, [4, 4], [4, 4]),
    "4M": (40, [2] * 4, [4] * 4),
    "8M": (56, [2] * 4, [4] * 4),
}
_SWIN_SMALL: dict[str, tuple[int, list[int], list[int]]] = {
    "5k": (6, [2], [2]),
    "20k": (12, [2, 1], [2, 2]),
    "50k": (18, [2, 2], [2, 2]),
    "200k": (36, [2, 2], [4, 4]),
}
#: (hidden, encoders' hidden).
_MGN_PAPER = {
    "5k": (8, 8),
    "50k": (34, 32),
    "500k": (116, 32),
    "1M": (164, 32),
    "2M": (234, 32),
    "4M": (331, 32),
    "8M": (469, 32),
}
_MGN_SMALL = {"5k": (10, 8), "20k": (22, 16), "50k": (34, 32), "200k": (72, 32)}


def tucker_ranks(shape: tuple[int, ...], rank: float) -> tuple[int, ...]:
    """Ranks of a Tucker factorisation with about ``rank`` times the entries of the full tensor, in proportion to its sides.

    The rule of tensorly 0.9 (rounded, at least 1), by which the published models were sized: the fraction x of every side
    solves ``size x^order + sum(side^2) x = rank size``.
    """
    size, squares = 1.0, float(sum(side * side for side in shape))
    for side in shape:
        size *= side
    low, high = 0.0, max(rank, 1.0)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if size * middle ** len(shape) + squares * middle < rank * size else (low, middle)
    return tuple(max(round(side * low), 1) for side in shape)


def _unet_channels(spec: int | tuple[int, ...]) -> list[int]:
    return [spec * 2**level for level in range(5)] if isinstance(spec, int) else list(spec)


def _fno3d(size: str, *, paper: bool, tucker: bool) -> FNO3D:
    if paper:
        width, modes, layers, hidden = (_TFNO3D_PAPER if tucker else _FNO3D_PAPER)[size]
        modes_time = modes
    else:
        width, modes_time, modes, layers, hidden = _FNO3D_SMALL[size]
    numbers = {
        "width": width, "layers": layers, "modes_time": modes_time, "modes_height": modes, "modes_width": modes,
        "lifting": hidden, "projection": hidden,
    }  # fmt: skip
    if not tucker:
        return FNO3D(**numbers)
    channels, _, time, height, along = tucker_ranks((width, width, modes_time, modes, modes // 2 + 1), 1.0)
    return TFNO3D(**numbers, rank_channels=channels, rank_time=time, rank_height=height, rank_width=along)


def navier_stokes_preset(variant: str, size: str, scale: str) -> Any:
    """The numbers of a known variant and size."""
    paper = scale == "paper"
    modes, hidden = (12, 256) if paper else (8, 64)
    plane = {"modes_height": modes, "modes_width": modes, "lifting": hidden, "projection": hidden}
    match variant:
        case "unet":
            return UNet(channels=_unet_channels((_UNET_PAPER if paper else _UNET_SMALL)[size]))
        case "convlstm":
            return ConvLSTM(hidden=(_CONVLSTM_PAPER if paper else _CONVLSTM_SMALL)[size])
        case "fourcastnet":
            embed, layers = (_AFNO_PAPER if paper else _AFNO_SMALL)[size]
            patch = 4 if paper else 2
            return FourCastNet(embed=embed, layers=layers, patch_height=patch, patch_width=patch)
        case "fno2d":
            return FNO2D(width=(_FNO_PAPER if paper else _FNO_SMALL)[size], **plane)
        case "tfno2d":
            width, channels, height, along = (_TFNO_PAPER if paper else _TFNO_SMALL)[size]
            return TFNO2D(width=width, rank_channels=channels, rank_height=height, rank_width=along, **plane)
        case "fno3d" | "tfno3d":
            return _fno3d(size, paper=paper, tucker=variant == "tfno3d")
        case "swin":
            embed, depths, heads = (_SWIN_PAPER if paper else _SWIN_SMALL)[size]
            return Swin(embed=embed, depths=list(depths), heads=list(heads), drop_path=0.2 if paper else 0.0)
        case "meshgraphnet" | "ms_meshgraphnet":
            width, encoder = (_MGN_PAPER if paper else _MGN_SMALL)[size]
            multiscale = variant == "ms_meshgraphnet"
            return MeshGraphNet(
                hidden=width,
                encoder=encoder,
                graph="multiscale" if multiscale else "grid",
                activation="silu" if multiscale else "relu",
            )
    raise KeyError(variant)
