"""Spectral convolutions over time, height and width, whose output may have another number of frames than their input.

As in :mod:`models.layers.spectral`, a transform is a matrix product per side that computes kept modes only. A field is kept as
``[width, height, time, batch, channel]``, modes as ``[width wavenumber, height wavenumber, frequency]``.

Frequencies count periods within the whole sequence, so that a sequence is resampled to another length by evaluating the same
frequencies at other times (Li et al. 2021, appendix A.3: the map does not depend on the discretisation). Public code that pads
the transform at its end instead turns negative frequencies into other ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.layers.precision import full_precision
from models.layers.spectral import as_complex, stored_modes, transform


def frequency_matrices(frames: int, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices of a truncated complex transform along time, normalised on the way in, in float64.

    Args:
        kept: frequencies ``-(kept // 2) ..`` are kept, ``kept`` of them; at most ``frames``.

    Returns:
        ``[2 kept, 2 frames]``, rows (frequency, part), columns (part, frame); and ``[2 frames, 2 kept]``, rows (part, frame),
        columns (frequency, part).
    """
    angle = 2 * np.pi * np.outer(np.arange(kept) - kept // 2, np.arange(frames)) / frames
    c, s = np.cos(angle), np.sin(angle)
    real, imaginary = np.concatenate([c, s], axis=1), np.concatenate([-s, c], axis=1)
    into = np.stack([real, imaginary], axis=1).reshape(2 * kept, 2 * frames)
    return into / frames, into.T


def resampling_matrix(frames_in: int, frames_out: int) -> np.ndarray:
    """Trigonometric interpolation from one number of equally spaced frames to another, ``[frames_out, frames_in]``, float64;
    the identity where they are equal. Frequencies that the shorter sequence does not hold are left out."""
    highest = min(frames_in, frames_out)
    k = np.arange(-(highest // 2), highest // 2 + 1)
    # At an even number of frames the highest frequency stands for both signs.
    share = np.where(2 * np.abs(k) == highest, 0.5, 1.0)
    t_in, t_out = np.arange(frames_in) / frames_in, np.arange(frames_out) / frames_out
    return np.asarray((share * np.cos(2 * np.pi * (t_out[:, None, None] - t_in[None, :, None]) * k)).sum(-1) / frames_in)


_cache: dict[tuple[object, ...], tuple[Tensor, ...]] = {}


def _constants(kind: str, device: torch.device, *sizes: int) -> tuple[Tensor, ...]:
    """Matrices on a device, made once; constants of the sequence, not buffers (see :func:`models.layers.spectral.transform`)."""
    key = (kind, device, *sizes)
    found = _cache.get(key)
    if found is None:
        arrays = frequency_matrices(*sizes) if kind == "frequencies" else (resampling_matrix(*sizes),)
        with torch.inference_mode(False):
            found = tuple(torch.tensor(array, dtype=torch.float32, device=device) for array in arrays)
        if type(found[0]) is Tensor:
            _cache[key] = found
    return found


def resample_time(field: Tensor, frames: int) -> Tensor:
    """``[width, height, time, batch, channel]`` at another number of frames."""
    if field.shape[2] == frames:
        return field
    (matrix,) = _constants("resample", field.device, field.shape[2], frames)
    width, height, _, batch, channels = field.shape
    rows = field.float().reshape(width * height, field.shape[2], batch * channels)
    out = torch.bmm(matrix.expand(width * height, -1, -1), rows)
    return out.view(width, height, frames, batch, channels).to(field.dtype)


class SpectralTransform3d:
    """The truncated transform of a convolution.

    Attributes:
        kept: stored modes of width, height and time.
    """

    def __init__(self, modes_width: int, modes_height: int, modes_time: int) -> None:
        self.kept = stored_modes(modes_width), modes_height, modes_time

    def analyse(self, field: Tensor, *, frames: int) -> tuple[Tensor, slice]:
        """Coefficients of a real field that an output of ``frames`` frames can hold.

        Args:
            field: float32 ``[width, height, time, batch, channel]``.

        Returns:
            complex64 ``[kept_width * kept_height * frequencies, batch, channel]``, and which of the stored frequencies these
            are: the lowest ones, as many as both sequences hold.
        """
        width, height, time, batch, channels = field.shape
        kept_width, kept_height, stored = self.kept
        count = min(stored, time, frames)
        basis = transform(width, height, kept_width, kept_height, "forward", field.device)
        into_time, _ = _constants("frequencies", field.device, time, count)
        rows = torch.mm(basis.into_width, field.reshape(width, -1)).view(kept_width, 2 * height, -1)
        plane = torch.bmm(basis.into_height.expand(kept_width, -1, -1), rows)
        plane = plane.view(kept_width * kept_height, 2 * time, batch * channels)
        cube = torch.bmm(into_time.expand(plane.shape[0], -1, -1), plane)
        pairs = cube.view(-1, 2, batch, channels).permute(0, 2, 3, 1).contiguous()
        first = stored // 2 - count // 2
        return torch.view_as_complex(pairs), slice(first, first + count)

    def synthesise(self, coefficients: Tensor, base: Tensor) -> Tensor:
        """The real field of coefficients, added to ``base``; float32 ``[width, height, time, batch, channel]``."""
        width, height, frames, batch, channels = base.shape
        kept_width, kept_height, _ = self.kept
        count = coefficients.shape[0] // (kept_width * kept_height)
        basis = transform(width, height, kept_width, kept_height, "forward", base.device)
        _, out_of_time = _constants("frequencies", base.device, frames, count)
        pairs = torch.view_as_real(coefficients).permute(0, 3, 1, 2).reshape(kept_width * kept_height, 2 * count, -1)
        plane = torch.bmm(out_of_time.expand(pairs.shape[0], -1, -1), pairs).view(kept_width, 2 * kept_height, -1)
        rows = torch.bmm(basis.out_of_height.expand(kept_width, -1, -1), plane).view(2 * kept_width, -1)
        return torch.addmm(base.reshape(width, -1), basis.out_of_width, rows).view(base.shape)


class SpectralConv3d(nn.Module):
    """A convolution given by one complex matrix per kept mode (Li et al. 2021, equation 4).

    ``modes_time`` frequencies and ``modes_height`` wavenumbers are kept and ``modes_width // 2 + 1`` along the width. Real
    parameters: ``2 in out modes_time modes_height (modes_width // 2 + 1)``.
    """

    def __init__(self, in_channels: int, out_channels: int, modes: tuple[int, int, int]) -> None:
        super().__init__()
        self.spectrum = SpectralTransform3d(*modes)
        self.weight = nn.Parameter(torch.empty(*self.spectrum.kept, in_channels, out_channels, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Complex normal numbers with standard deviation sqrt(2 / (in + out)), shared evenly by their two parts."""
        nn.init.normal_(self.weight, 0.0, (self.weight.shape[3] + self.weight.shape[4]) ** -0.5)

    def forward(self, field: Tensor, base: Tensor) -> Tensor:
        """``base`` plus the convolution of ``field``, evaluated at as many frames as ``base`` has:
        ``[width, height, time, batch, in] -> [width, height, frames, batch, out]``."""
        with full_precision(field.device):
            modes, place = self.spectrum.analyse(field.float(), frames=base.shape[2])
            product = torch.bmm(modes, as_complex(self.weight[:, :, place]).flatten(0, 2))
            return self.spectrum.synthesise(product, base.float()).to(base.dtype)
