"""Layers against independent results: numpy's FFT, torch's own circular convolution, autograd of the plain composition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.layers.afno import AFNOBlock, FourierMixer
from models.layers.boundary import Boundary
from models.layers.grid_convs import GridConvs, wrap
from models.layers.pointwise import GeluLinear, PointwisePerceptron, _Perceptron
from models.layers.precision import full_precision
from models.layers.spectral import SpectralConv2d, analyse, synthesise, transform
from models.layers.tucker import TuckerSpectralConv2d

CPU = torch.device("cpu")


def field_of(width: int, height: int, batch: int, channels: int, seed: int = 0) -> torch.Tensor:
    """A random field ``[width, height, batch, channel]``."""
    return torch.randn(width, height, batch, channels, generator=torch.Generator().manual_seed(seed))


def numpy_modes(field: torch.Tensor, kept_width: int, kept_height: int, norm: str) -> np.ndarray:
    """Kept coefficients by numpy: ``[kept_width, kept_height, batch, channel]``."""
    full = np.fft.rfft2(field.double().numpy(), axes=(1, 0), norm=norm)  # real transform along the width, then the height
    rows = [m % field.shape[1] for m in range(-(kept_height // 2), kept_height - kept_height // 2)]
    return full[:kept_width][:, rows]


sizes = st.integers(2, 12)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.data(), st.sampled_from(["forward", "ortho"]))
def test_analysis_is_the_fft(width: int, height: int, data: st.DataObject, norm: str) -> None:
    kept_width = data.draw(st.integers(1, width // 2 + 1))
    kept_height = data.draw(st.integers(1, height))
    field = field_of(width, height, 2, 3)
    found = analyse(field, transform(width, height, kept_width, kept_height, norm, CPU))
    expected = numpy_modes(field, kept_width, kept_height, norm).reshape(found.shape)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.data(), st.sampled_from(["forward", "ortho"]))
def test_synthesis_is_the_inverse_fft(width: int, height: int, data: st.DataObject, norm: str) -> None:
    kept_width = data.draw(st.integers(1, width // 2 + 1))
    kept_height = data.draw(st.integers(1, height))
    random = np.random.default_rng(1)
    shape = (kept_width, kept_height, 2, 3)
    modes = random.standard_normal(shape) + 1j * random.standard_normal(shape)
    full = np.zeros((width // 2 + 1, height, 2, 3), dtype=complex)
    for column, m in enumerate(range(-(kept_height // 2), kept_height - kept_height // 2)):
        full[:kept_width, m % height] = modes[:, column]
    expected = np.fft.irfft2(full, s=(height, width), axes=(1, 0), norm=norm)
    base = field_of(width, height, 2, 3)
    coefficients = torch.tensor(modes.reshape(-1, 2, 3), dtype=torch.complex64)
    found = synthesise(coefficients, transform(width, height, kept_width, kept_height, norm, CPU), base)
    np.testing.assert_allclose(found.numpy(), expected + base.numpy(), atol=1e-4)


def test_spectral_convolution_multiplies_modes() -> None:
    torch.manual_seed(0)
    layer = SpectralConv2d(3, 5, modes_height=4, modes_width=6)
    assert layer.weight.shape == (4, 4, 3, 5, 2)
    field, base = field_of(12, 10, 2, 3), field_of(12, 10, 2, 5, seed=1)
    weight = torch.view_as_complex(layer.weight.detach()).numpy()
    product = np.einsum("kmbi,kmio->kmbo", numpy_modes(field, 4, 4, "forward"), weight)
    full = np.zeros((7, 10, 2, 5), dtype=complex)
    full[:4, [-2, -1, 0, 1]] = product
    expected = np.fft.irfft2(full, s=(10, 12), axes=(1, 0), norm="forward") + base.numpy()
    np.testing.assert_allclose(layer(field, base).detach().numpy(), expected, atol=1e-5)


def test_tucker_convolution_is_the_dense_one_with_the_product_weight() -> None:
    torch.manual_seed(0)
    tucker = TuckerSpectralConv2d(3, 5, 4, 6, rank_in=2, rank_out=4, rank_height=3, rank_width=2)
    core, over_width, over_height, into, out = (
        torch.view_as_complex(p.detach())
        for p in (tucker.core, tucker.factor_width, tucker.factor_height, tucker.factor_in, tucker.factor_out)
    )
    dense = SpectralConv2d(3, 5, 4, 6)
    product = torch.einsum("whrs,kw,mh,ir,so->kmio", core, over_width, over_height, into, out)
    with torch.no_grad():
        dense.weight.copy_(torch.view_as_real(product))
    field, base = field_of(9, 8, 2, 3), field_of(9, 8, 2, 5, seed=1)
    torch.testing.assert_close(tucker(field, base), dense(field, base), atol=1e-6, rtol=1e-5)


def test_dense_and_tucker_weights_start_with_the_same_variance() -> None:
    torch.manual_seed(0)
    variances = []
    for _ in range(200):
        t = TuckerSpectralConv2d(6, 6, 6, 6, rank_in=5, rank_out=5, rank_height=4, rank_width=3)
        factors = (t.core, t.factor_width, t.factor_height, t.factor_in, t.factor_out)
        product = torch.einsum("whrs,kw,mh,ir,so->kmio", *(torch.view_as_complex(p.detach()) for p in factors))
        variances.append(product.abs().square().mean().item())
    assert np.mean(variances) == pytest.approx(2 / 12, rel=0.15)
    dense = SpectralConv2d(24, 24, 12, 12).weight.detach().square().sum(-1).mean().item()
    assert dense == pytest.approx(2 / 48, rel=0.02)


@pytest.mark.parametrize("layer", [SpectralConv2d(4, 4, 4, 4), FourierMixer(4, 2, 0.01)])
def test_transforms_stay_in_full_precision_under_autocast(layer: nn.Module) -> None:
    field, base = field_of(8, 8, 2, 4), field_of(8, 8, 2, 4, seed=1)
    expected = layer(field, base)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(field, base)
        with full_precision(CPU):
            assert not torch.is_autocast_enabled("cpu")
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize("make", [lambda: SpectralConv2d(4, 4, 4, 4), lambda: FourierMixer(4, 2, 0.01)])
def test_bf16_weights_are_used_in_float32(make) -> None:
    torch.manual_seed(0)
    layer = make()
    rounded = make()
    rounded.load_state_dict({name: value.bfloat16().float() for name, value in layer.state_dict().items()})
    field, base = field_of(8, 8, 2, 4).bfloat16(), field_of(8, 8, 2, 4, seed=1).bfloat16()
    found = layer.bfloat16()(field, base)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, rounded(field.float(), base.float()).bfloat16(), atol=0, rtol=0)


@pytest.mark.parametrize("offset", [0, 1])
def test_weights_may_be_shards_of_a_flat_buffer(offset: int) -> None:
    """Sharded engines move parameters into flat buffers, where a pair may begin at an odd element."""
    layer = SpectralConv2d(2, 3, 4, 4)
    field, base = field_of(8, 8, 2, 2), field_of(8, 8, 2, 3, seed=1)
    expected = layer(field, base)
    flat = torch.cat([torch.zeros(offset), layer.weight.detach().flatten()])
    layer.weight.data = flat[offset:].view(layer.weight.shape)
    found = layer(field, base)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    found.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() > 0


def test_transforms_made_under_inference_mode_serve_training() -> None:
    layer = SpectralConv2d(2, 2, 3, 3)
    field, base = field_of(7, 5, 1, 2), torch.zeros(7, 5, 1, 2)
    with torch.inference_mode():
        layer(field, base)
    layer(field, base).sum().backward()
    assert layer.weight.grad is not None


def test_fourier_mixer_by_hand() -> None:
    torch.manual_seed(0)
    mixer = FourierMixer(6, blocks=3, shrink=0.01)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.mul_(20)
    tokens, base = field_of(8, 6, 2, 6), field_of(8, 6, 2, 6, seed=1)
    modes = np.fft.rfft2(tokens.numpy(), axes=(1, 0), norm="ortho").reshape(5, 6, 2, 3, 2)
    w1, b1, w2, b2 = (torch.view_as_complex(p.detach()).numpy() for p in (mixer.weight1, mixer.bias1, mixer.weight2, mixer.bias2))
    hidden = np.einsum("kmbni,nio->kmbno", modes, w1) + b1[:, 0]
    hidden = np.maximum(hidden.real, 0) + 1j * np.maximum(hidden.imag, 0)
    mixed = np.einsum("kmbni,nio->kmbno", hidden, w2) + b2[:, 0]

    def shrink(x: np.ndarray) -> np.ndarray:
        return np.sign(x) * np.maximum(np.abs(x) - 0.01, 0)

    mixed = (shrink(mixed.real) + 1j * shrink(mixed.imag)).reshape(5, 6, 2, 6)
    expected = np.fft.irfft2(mixed, s=(6, 8), axes=(1, 0), norm="ortho") + base.numpy()
    np.testing.assert_allclose(mixer(tokens, base).detach().numpy(), expected, atol=1e-4)


def test_afno_block_by_hand() -> None:
    torch.manual_seed(0)
    block, tokens = AFNOBlock(4, 2, 4, 0.01), field_of(6, 6, 2, 4)
    normed = F.layer_norm(tokens, (4,))
    mixed = block.mixer(normed, torch.zeros_like(tokens)) + normed + tokens
    hidden = F.linear(F.layer_norm(mixed, (4,)), block.expand.weight, block.expand.bias)
    expected = F.linear(F.gelu(hidden), block.contract.weight, block.contract.bias) + mixed
    torch.testing.assert_close(block(tokens), expected)


@pytest.mark.parametrize("chunk", [3, 4, 100])
def test_recomputing_perceptron_has_the_plain_gradients(chunk: int) -> None:
    torch.manual_seed(0)
    shapes = [(3, 10), (5, 3), (5,), (2, 5), (2,)]
    arguments = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *a: _Perceptron.apply(*a, chunk), arguments)
    x, w1, b1, w2, b2 = arguments
    expected = F.linear(F.gelu(F.linear(x.t(), w1, b1)), w2, b2).t()
    torch.testing.assert_close(_Perceptron.apply(*arguments, chunk), expected)


def test_large_hidden_maps_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = PointwisePerceptron(3, 16, 2)
    field = field_of(3, 8, 8, 2).requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        plain = layer(field)
    assert max(kept) == 8 * 8 * 2 * 16
    kept.clear()
    monkeypatch.setattr("models.layers.pointwise.KEEP_ELEMENTS", 100)
    monkeypatch.setattr("models.layers.pointwise.CHUNK_ELEMENTS", 16 * 10)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        lean = layer(field)
    assert max(kept) == 8 * 8 * 2 * 3
    torch.testing.assert_close(lean, plain)
    by_hand = F.linear(F.gelu(F.linear(field.movedim(0, -1), layer.weight1, layer.bias1)), layer.weight2, layer.bias2)
    torch.testing.assert_close(plain, by_hand.movedim(-1, 0))


@pytest.mark.parametrize("halo", [1, 2, 3])
def test_wrap_is_circular_padding(halo: int) -> None:
    field = torch.randn(2, 3, 4, 6).contiguous(memory_format=torch.channels_last)
    found = wrap(field, halo)
    assert torch.equal(found, F.pad(field, (halo,) * 4, mode="circular"))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("activate_last", [False, True])
@pytest.mark.parametrize("boundary", [Boundary.TORUS, Boundary.CYLINDER])
def test_convolution_chain_is_one_convolution_after_another(size: int, activate_last: bool, boundary: Boundary) -> None:
    torch.manual_seed(0)
    chain = GridConvs([2, 3, 4, 2], boundary=boundary, activation="tanh", activate_last=activate_last)
    field = torch.randn(2, 2, size, size)
    expected = field
    for index, conv in enumerate(chain.convs):
        # As torch's padding_mode="circular", but for grids smaller than the halo too: indices taken modulo the size.
        around = torch.arange(-1, size + 1) % size
        rows = expected[:, :, around] if boundary is Boundary.TORUS else F.pad(expected, (0, 0, 1, 1))
        expected = F.conv2d(rows[:, :, :, around], conv.weight, conv.bias)
        if index < 2 or activate_last:
            expected = torch.tanh(expected)
    torch.testing.assert_close(chain(field), expected)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4, 5), (1, 5)])
def test_gelu_before_a_linear_layer_is_kept_once_and_the_same(shape: tuple[int, ...]) -> None:
    """Value and gradients of GELU, then linear, to the last bit; of the hidden map one tensor is saved."""
    layer, before = GeluLinear(5, 7), torch.randn(shape, requires_grad=True)
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(before)
    assert sum(tensor.shape == before.shape for tensor in saved) == 1
    weight = torch.randn_like(out)
    leaves = [before, layer.weight, layer.bias]
    expected = F.linear(F.gelu(before), layer.weight, layer.bias)
    assert torch.equal(out, expected)
    for found, wanted in zip(
        torch.autograd.grad((out * weight).sum(), leaves), torch.autograd.grad((expected * weight).sum(), leaves), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


def test_gelu_linear_has_the_gradients_of_finite_differences() -> None:
    layer = GeluLinear(3, 2).double()
    assert torch.autograd.gradcheck(layer, (torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True),))
