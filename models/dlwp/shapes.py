"""The numbers of every backbone, as typed configuration: the ``model`` section. No torch; the modules are in
:mod:`models.dlwp.backbones`, the published and small numbers in the presets of each experiment.

Where the published code does something that its authors can hardly have meant, a switch brings it back; the default is the
corrected form unless the comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class UNet:
    """Five levels in the paper; widths from the finest level down."""

    channels: list[int] = field(default_factory=lambda: [3, 6, 12, 24, 48])


@dataclass
class ConvLSTM:
    """Cells of equal width."""

    hidden: int = 13
    layers: int = 4


@dataclass
class FNO2D:
    """Fourier neural operator with dense weights."""

    width: int = 12
    layers: int = 4
    modes_height: int = 8  # wavenumbers kept along the height, both signs counted
    modes_width: int = 8  # likewise; modes_width // 2 + 1 are stored
    lifting: int = 64  # hidden channels of the lifting perceptron
    projection: int = 64


@dataclass
class TFNO2D(FNO2D):
    """The same with Tucker-factorised weights."""

    rank_channels: int = 12  # of the input and of the output channels
    rank_height: int = 7
    rank_width: int = 4


@dataclass
class FNO3D:
    """Fourier neural operator over time, height and width: all frames in one shot."""

    width: int = 8
    layers: int = 1
    modes_time: int = 4  # frequencies kept, both signs counted; as many as the frames allow
    modes_height: int = 8
    modes_width: int = 8
    lifting: int = 64
    projection: int = 64


@dataclass
class TFNO3D(FNO3D):
    """The same with Tucker-factorised weights."""

    rank_channels: int = 8
    rank_time: int = 4
    rank_height: int = 8
    rank_width: int = 5


@dataclass
class FourCastNet:
    """Adaptive Fourier neural operator on patches."""

    embed: int = 40
    layers: int = 2
    patch_height: int = 2  # grid points
    patch_width: int = 2
    blocks: int = 4  # of the block-diagonal mixing weights
    mlp_ratio: int = 4
    shrink: float = 0.01  # soft-thresholding of Fourier coefficients
    mixer_skip: bool = True  # published, and the default: the mixer adds its own normalised input, besides the block's skip
    position: bool = True  # learned positional embedding
    height_cuts_width: bool = False  # published: True; zonal wavenumbers above height/2 are not mixed, but zeroed


@dataclass
class Swin:
    """Shifted-window transformer with a decoder of transposed convolutions."""

    embed: int = 8
    depths: list[int] = field(default_factory=lambda: [2, 2])  # blocks of each stage
    heads: list[int] = field(default_factory=lambda: [4, 4])
    patch: int = 2  # grid points per side
    window: int = 0  # tokens per side; 0: the whole map of the stage (published)
    window_halves: bool = False  # from stage to stage, as the map does
    mlp_ratio: int = 4
    drop_path: float = 0.0  # of the last block, rising from 0 at the first; published: 0.2
    masked_wrap: bool = False  # published: True; shifted windows do not attend across periodic borders


@dataclass
class MeshGraphNet:
    """Message passing between grid points."""

    hidden: int = 34
    blocks: int = 4
    encoder: int = 32  # hidden width of encoders and decoder
    graph: str = "grid"  # grid | multiscale | delaunay
    activation: str = "relu"  # relu | silu


@dataclass
class SFNO:
    """Spherical Fourier neural operator."""

    embed: int = 32
    layers: int = 4
    mlp_ratio: int = 2
    degrees: int = 0  # of spherical harmonics; 0: as many as rows of latitude


@dataclass
class Pangu:
    """Windowed transformer with biases that depend on latitude; depths 2, 6, 6, 2."""

    embed: int = 24
    heads: list[int] = field(default_factory=lambda: [2, 4, 4, 2])  # of the four layers
    patch: int = 1  # grid points per side
    window_height: int = 6  # tokens
    window_width: int = 12
    mlp_ratio: int = 4
    drop_path: float = 0.2
    published_shift: bool = False  # published: True; shifted windows end up three columns further east


@dataclass
class GraphCast:
    """Message passing on an icosahedral mesh of several resolutions at once."""

    hidden: int = 31
    layers: int = 4  # of the processor
    level: int = 3  # of the finest mesh: 10 * 4^level + 2 nodes
    published_grid: bool = False  # published: True; rows on the poles and columns half a turn off
