"""Numbers behind the sizes of the weather backbones.

``paper``: published configurations of Karlbauer et al. 2024 (arXiv 2407.14129) where there are any, else the width that meets the
budget best (within 3 %, except at 50k, where widths are few). ``small`` and ``tiny`` are families for two CPU cores.
"""

from __future__ import annotations

from typing import Any

from models.dlwp.presets import tucker_ranks
from models.dlwp.shapes import FNO2D, SFNO, TFNO2D, ConvLSTM, FourCastNet, GraphCast, MeshGraphNet, Pangu, Swin, UNet

_CONVLSTM = {"50k": 12, "500k": 40, "1M": 57, "2M": 81, "4M": 114, "8M": 161, "16M": 228, "32M": 323, "64M": 457, "128M": 646}
#: Finest width, doubled from level to level; five levels on the cylinder, four on HEALPix faces.
_UNET: dict[str, int | tuple[int, ...]] = {
    "50k": 3,
    "500k": 8,
    "1M": (11, 22, 44, 88, 196),
    "2M": 16,
    "4M": 23,
    "8M": 32,
    "16M": 46,
    "32M": 65,
    "64M": 92,
    "128M": (128, 256, 512, 1024, 2014),  # as published
}
_UNET_HPX: dict[str, int | tuple[int, ...]] = {
    "50k": (5, 10, 20, 42),
    "500k": (16, 32, 64, 132),
    "1M": 23,
    "2M": 33,
    "4M": 46,
    "8M": 65,
    "16M": 92,
    "32M": 130,
    "64M": 185,
    "128M": 261,
}
_FNO = {"50k": 8, "500k": 27, "1M": 38, "2M": 54, "4M": 76, "8M": 108, "16M": 153, "32M": 217, "64M": 307, "128M": 435}
_TFNO = {"50k": 9, "500k": 29, "1M": 42, "2M": 59, "4M": 84, "8M": 119, "16M": 168, "32M": 239, "64M": 337, "128M": 477}
#: (embedding, layers) of patches of one point, and of four by four.
_AFNO_1 = {
    "50k": (72, 1), "500k": (232, 1), "1M": (164, 4), "2M": (236, 4), "4M": (272, 6), "8M": (384, 6), "16M": (472, 8),
    "32M": (664, 8), "64M": (940, 8), "128M": (1332, 8),
}  # fmt: skip
_AFNO_4 = {
    "50k": (56, 1), "500k": (216, 1), "1M": (160, 4), "2M": (232, 4), "4M": (268, 6), "8M": (380, 6), "16M": (468, 8),
    "32M": (664, 8), "64M": (940, 8), "128M": (1332, 8),
}  # fmt: skip
_AFNO_2X4 = {"8M": (384, 6)}
_SFNO = {"50k": 13, "500k": 43, "1M": 61, "2M": 86, "4M": 121, "8M": 171, "16M": 242, "32M": 343, "64M": 485, "128M": 686}
#: (embedding, depths); four heads everywhere.
_SWIN: dict[str, tuple[int, list[int]]] = {
    "50k": (36, [1]),
    "500k": (36, [4, 4]),
    "1M": (56, [4, 4]),
    "2M": (88, [4, 4]),
    "4M": (120, [4, 4]),
    "8M": (84, [4] * 3),
    "16M": (60, [4] * 4),
    "32M": (84, [4] * 4),
}
_SWIN_HPX: dict[str, tuple[int, list[int]]] = {
    "2M": (88, [4, 4]),
    "4M": (60, [4] * 3),
    "16M": (120, [4] * 3),
    "32M": (172, [4] * 3),
}
#: (embedding, heads of the outer layers; the inner ones have twice as many). Tables of biases take most of the small budgets.
_PANGU = {
    "500k": (17, 1),
    "1M": (24, 2),
    "2M": (46, 2),
    "4M": (72, 2),
    "8M": (105, 3),
    "16M": (153, 3),
    "32M": (216, 6),
    "64M": (312, 6),
}
_MGN = {"50k": 34, "500k": 116, "1M": 164, "2M": 234, "4M": 331, "8M": 469, "16M": 665, "32M": 941}
_GRAPHCAST = {"50k": 31, "500k": 99, "1M": 140, "2M": 199, "4M": 282, "8M": 399, "16M": 565, "32M": 799}

PAPER_SIZES = {
    "convlstm": tuple(_CONVLSTM),
    "convlstm_hpx": tuple(_CONVLSTM),
    "unet": tuple(_UNET),
    "unet_hpx": tuple(_UNET_HPX),
    "swin": tuple(_SWIN),
    "swin_hpx": tuple(_SWIN_HPX),
    "fno2d": tuple(_FNO),
    "tfno2d": tuple(_TFNO),
    "fourcastnet_p1x1": tuple(_AFNO_1),
    "fourcastnet_p2x4": tuple(_AFNO_2X4),
    "fourcastnet_p4x4": tuple(_AFNO_4),
    "sfno": tuple(_SFNO),
    "pangu": tuple(_PANGU),
    "meshgraphnet": tuple(_MGN),
    "graphcast": tuple(_GRAPHCAST),
}
SMALL_SIZES = ("50k", "150k")
TINY_SIZES = ("5k",)


def _doubling(spec: int | tuple[int, ...], levels: int) -> list[int]:
    return [spec << level for level in range(levels)] if isinstance(spec, int) else list(spec)


def _tucker(width: int, plane: dict[str, int], layers: int = 4) -> TFNO2D:
    channels, _, height, along = tucker_ranks((width, width, plane["modes_height"], plane["modes_width"] // 2 + 1), 0.8)
    return TFNO2D(width=width, layers=layers, rank_channels=channels, rank_height=height, rank_width=along, **plane)


def paper_preset(variant: str, size: str) -> Any:
    """The published configuration, or the width that meets the budget."""
    plane = {"modes_height": 12, "modes_width": 12, "lifting": 256, "projection": 256}
    match variant:
        case "convlstm" | "convlstm_hpx":
            return ConvLSTM(hidden=_CONVLSTM[size])
        case "unet":
            return UNet(channels=_doubling(_UNET[size], 5))
        case "unet_hpx":
            return UNet(channels=_doubling(_UNET_HPX[size], 4))
        case "swin":
            embed, depths = _SWIN[size]
            return Swin(embed=embed, depths=list(depths), heads=[4] * len(depths), patch=1, drop_path=0.2)
        case "swin_hpx":
            embed, depths = _SWIN_HPX[size]
            return Swin(
                embed=embed, depths=list(depths), heads=[4] * len(depths), patch=1, drop_path=0.2, window=8, window_halves=True
            )
        case "fno2d":
            return FNO2D(width=_FNO[size], **plane)
        case "tfno2d":
            return _tucker(_TFNO[size], plane)
        case "fourcastnet_p1x1" | "fourcastnet_p2x4" | "fourcastnet_p4x4":
            table, patch = {
                "fourcastnet_p1x1": (_AFNO_1, (1, 1)),
                "fourcastnet_p2x4": (_AFNO_2X4, (2, 4)),
                "fourcastnet_p4x4": (_AFNO_4, (4, 4)),
            }[variant]
            embed, layers = table[size]
            return FourCastNet(embed=embed, layers=layers, patch_height=patch[0], patch_width=patch[1], position=False)
        case "sfno":
            return SFNO(embed=_SFNO[size])
        case "pangu":
            embed, heads = _PANGU[size]
            return Pangu(embed=embed, heads=[heads, 2 * heads, 2 * heads, heads])
        case "meshgraphnet":
            return MeshGraphNet(hidden=_MGN[size], graph="delaunay")
        case "graphcast":
            return GraphCast(hidden=_GRAPHCAST[size])
    raise KeyError(variant)


def small_preset(variant: str, size: str) -> Any:
    """A family for 32 x 64 points on two CPU cores; 5k serves tests."""
    place = ("5k", "50k", "150k").index(size)
    modes = 8 if place == 0 else 12
    plane = {"modes_height": modes, "modes_width": modes, "lifting": 32, "projection": 32}
    match variant:
        case "convlstm" | "convlstm_hpx":
            return ConvLSTM(hidden=(5, 12, 22)[place], layers=(2, 4, 4)[place])
        case "unet":
            return UNet(channels=([4, 8, 12], [12, 24, 32], [18, 36, 72])[place])
        case "unet_hpx":
            return UNet(channels=([4, 8, 12], [12, 24, 32], [18, 36, 72])[place])
        case "swin" | "swin_hpx":
            window = (4 if place == 0 else 8) if variant == "swin_hpx" else 0
            embed, depths, heads = ((8, [2], [2]), (16, [2, 2], [2, 2]), (32, [2, 2], [2, 2]))[place]
            return Swin(
                embed=embed, depths=list(depths), heads=list(heads), patch=1 if window else 2, window=window,
                window_halves=bool(window),
            )  # fmt: skip
        case "fno2d":
            return FNO2D(width=(6, 10, 17)[place], layers=(1, 3, 3)[place], **plane)
        case "tfno2d":
            return _tucker((6, 11, 18)[place], plane, layers=(1, 3, 3)[place])
        case "fourcastnet_p1x1" | "fourcastnet_p2x4" | "fourcastnet_p4x4":
            patch = tuple(int(side) for side in variant.rpartition("_p")[2].split("x"))
            embed, layers = ((20, 1), (52, 2), (88, 2))[place] if patch == (1, 1) else ((12, 1), (44, 2), (84, 2))[place]
            return FourCastNet(embed=embed, layers=layers, patch_height=patch[0], patch_width=patch[1], position=False)
        case "sfno":
            return SFNO(embed=(10, 19, 33)[place], layers=(1, 2, 2)[place])
        case "pangu":
            return Pangu(
                embed=(2, 6, 12)[place],
                heads=[1, 2, 2, 1] if place == 2 else [1, 1, 1, 1],
                patch=(4, 4, 2)[place],
                window_height=4,
                window_width=8,
                drop_path=0.0,
            )
        case "meshgraphnet":
            return MeshGraphNet(hidden=(10, 34, 62)[place], blocks=(2, 4, 4)[place], encoder=(8, 32, 32)[place], graph="delaunay")
        case "graphcast":
            return GraphCast(hidden=(10, 31, 54)[place], level=(1, 3, 3)[place])
    raise KeyError(variant)
