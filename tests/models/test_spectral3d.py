"""Spectral layers over time and space against numpy's FFT and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers.spectral3d import SpectralConv3d, SpectralTransform3d, resample_time, resampling_matrix
from models.layers.tucker import TuckerSpectralConv3d, over_modes

sides = st.integers(2, 7)


@settings(max_examples=30, deadline=None)
@given(sides, sides, sides, st.data())
def test_analysis_is_the_fft(width: int, height: int, frames: int, data: st.DataObject) -> None:
    modes = data.draw(st.integers(1, width)), data.draw(st.integers(1, height)), data.draw(st.integers(1, frames))
    field = torch.randn(width, height, frames, 2, 3, generator=torch.Generator().manual_seed(0))
    spectrum = SpectralTransform3d(*modes)
    found, place = spectrum.analyse(field, frames=frames)
    assert place == slice(0, modes[2])
    full = np.fft.rfftn(field.double().numpy(), axes=(2, 1, 0), norm="forward")  # real along the width
    rows = [m % height for m in range(-(modes[1] // 2), modes[1] - modes[1] // 2)]
    times = [m % frames for m in range(-(modes[2] // 2), modes[2] - modes[2] // 2)]
    expected = full[: modes[0] // 2 + 1][:, rows][:, :, times]
    np.testing.assert_allclose(found.numpy(), expected.reshape(found.shape), atol=2e-5)


@pytest.mark.parametrize("size", [(6, 5, 7), (4, 4, 4), (5, 6, 1)])
def test_synthesis_undoes_analysis_where_all_modes_are_kept(size: tuple[int, int, int]) -> None:
    field = torch.randn(*size, 2, 3)
    spectrum = SpectralTransform3d(*size)
    modes, _ = spectrum.analyse(field, frames=size[2])
    # An even height or number of frames keeps its Nyquist mode with one sign: exact for the real part all the same.
    torch.testing.assert_close(spectrum.synthesise(modes, torch.zeros_like(field)), field, atol=1e-5, rtol=1e-5)


def test_a_wave_is_evaluated_at_other_times() -> None:
    """Frequency -1 per sequence stays frequency -1: what padding a transform at its end gets wrong."""
    spectrum = SpectralTransform3d(5, 5, 5)

    def wave(frames: int) -> torch.Tensor:
        x, y, t = np.meshgrid(np.arange(6) / 6, np.arange(7) / 7, np.arange(frames) / frames, indexing="ij")
        return torch.tensor(np.cos(2 * np.pi * (x + 2 * y - t)), dtype=torch.float32).view(6, 7, frames, 1, 1)

    modes, place = spectrum.analyse(wave(6), frames=15)
    assert place == slice(0, 5)
    torch.testing.assert_close(spectrum.synthesise(modes, torch.zeros(6, 7, 15, 1, 1)), wave(15), atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_resampling_interpolates(frames_in: int, frames_out: int) -> None:
    matrix = resampling_matrix(frames_in, frames_out)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    if frames_in == frames_out:
        np.testing.assert_allclose(matrix, np.eye(frames_in), atol=1e-12)
    if frames_out % frames_in == 0:  # old frames are among the new ones
        np.testing.assert_allclose(matrix[:: frames_out // frames_in], np.eye(frames_in), atol=1e-12)
    from scipy.signal import resample

    signal = np.random.default_rng(0).standard_normal(frames_in)
    if min(frames_in, frames_out) % 2 or frames_in == frames_out:  # at even lengths the Nyquist frequency is a convention
        np.testing.assert_allclose(matrix @ signal, resample(signal, frames_out), atol=1e-10)
    field = torch.tensor(signal, dtype=torch.float32).view(1, 1, -1, 1, 1)
    np.testing.assert_allclose(resample_time(field, frames_out).flatten().numpy(), matrix @ signal, atol=1e-5)


def test_tucker_convolution_is_the_dense_one_with_the_product_weight() -> None:
    torch.manual_seed(0)
    tucker = TuckerSpectralConv3d(3, 4, (5, 4, 6), (2, 3, 4, 2, 3))
    dense = SpectralConv3d(3, 4, (5, 4, 6))
    core, along, across, time, enter, leave = (
        torch.view_as_complex(p.detach())
        for p in (
            tucker.core, tucker.factor_width, tucker.factor_height, tucker.factor_time, tucker.factor_in, tucker.factor_out,
        )
    )  # fmt: skip
    whole = torch.einsum("abcde,xa,yb,zc,id,eo->xyzio", core, along, across, time, enter, leave)
    with torch.no_grad():
        dense.weight.copy_(torch.view_as_real(whole))
    field, base = torch.randn(8, 6, 5, 2, 3), torch.randn(8, 6, 9, 2, 4)
    torch.testing.assert_close(tucker(field, base), dense(field, base), atol=1e-5, rtol=1e-4)
    expected = torch.einsum("abcde,xa,yb,zc->xyzde", core, along, across, time).flatten(0, 2)
    torch.testing.assert_close(over_modes(core, [along, across, time]), expected)
