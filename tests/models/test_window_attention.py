"""Window attention: the chunked kernel against torch's own, pieces of shifted windows against a mask over the whole window."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.planning.trace import trace_step
from models.layers import window_attention
from models.layers.precision import device_type, planned_for
from models.layers.window_attention import FORBIDDEN, WindowAttention, attention, relative_attention


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """All scores at once, ``[heads, windows, tokens, channels]``."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias.unsqueeze(1)
    return torch.softmax(scores, dim=-1) @ v


def gradients(out: torch.Tensor, weight: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    return [out, *torch.autograd.grad((out * weight).sum(), leaves)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 200))
def test_chunks_give_value_and_gradients_of_the_plain_form(
    windows: int, heads: int, tokens: int, keys: int, width: int, chunk: int
) -> None:
    random = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()

    q, k, v = leaf(heads, windows, tokens, width), leaf(heads, windows, keys, width), leaf(heads, windows, keys, width)
    bias, weight = leaf(heads, tokens, keys), torch.randn(heads, windows, tokens, width, generator=random, dtype=torch.float64)
    leaves = [q, k, v, bias]
    with chunks_of(chunk):
        found = gradients(window_attention._Attention.apply(*leaves, None), weight, leaves)
    for mine, theirs in zip(found, gradients(plain(*leaves), weight, leaves), strict=True):
        torch.testing.assert_close(mine, theirs)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 500))
def test_biases_out_of_the_table_are_those_by_index_arithmetic(
    windows: int, heads: int, rows: int, columns: int, chunk: int
) -> None:
    """Value and gradients, the table's too, with one or several lines of queries in a chunk."""
    random = torch.Generator().manual_seed(0)
    shape = heads, windows, rows * columns, 3
    parts = [torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_() for _ in range(3)]
    table = torch.randn(2 * rows - 1, 2 * columns - 1, heads, generator=random, dtype=torch.float64).requires_grad_()
    weight = torch.randn(shape, generator=random, dtype=torch.float64)
    leaves = [*parts, table]
    with chunks_of(chunk):
        turned = table.permute(2, 0, 1).flip(1, 2)
        found = gradients(window_attention._Attention.apply(*parts, turned, (rows, columns)), weight, leaves)
    bias = by_index(table, rows, columns)
    for mine, theirs in zip(found, gradients(plain(*parts, bias), weight, leaves), strict=True):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(window_attention.relative_bias(table, (rows, columns)), bias)


def by_index(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    apart = place[:, None] - place[None] + torch.tensor([rows - 1, columns - 1])
    return table[apart[..., 0], apart[..., 1]].permute(2, 0, 1)


@contextlib.contextmanager
def chunks_of(elements: int) -> Iterator[None]:
    """Chunks of another size."""
    usual, window_attention.CHUNK_ELEMENTS = window_attention.CHUNK_ELEMENTS, {"cpu": elements, "cuda": elements}
    yield
    window_attention.CHUNK_ELEMENTS = usual


def masked_by_hand(layer: WindowAttention, tokens: torch.Tensor, masked: tuple[bool, bool]) -> torch.Tensor:
    """One window over the whole map: roll, attend over all pairs under a mask, roll back; bias by index arithmetic."""
    batch, rows, columns, width = tokens.shape
    rolled = tokens.roll((-layer.shift[0], -layer.shift[1]), (1, 2)).reshape(batch, rows * columns, width)
    q, k, v = layer.qkv(rolled).view(batch, rows * columns, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    bias = by_index(layer.table, rows, columns)
    for side, length in enumerate((rows, columns)):
        if masked[side] and layer.shift[side]:
            beyond = place[:, side] >= length - layer.shift[side]
            bias = bias + (beyond[:, None] != beyond[None]) * FORBIDDEN
    mixed = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias, -1) @ v
    mixed = mixed.transpose(1, 2).reshape(batch, rows, columns, width)
    return layer.out(mixed.roll(layer.shift, (1, 2)))


@pytest.mark.parametrize("masked", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("size", [(4, 6), (5, 4)])
@pytest.mark.parametrize("shifted", [False, True])
def test_a_window_over_everything(masked: tuple[bool, bool], size: tuple[int, int], shifted: bool) -> None:
    """Halves that do not see each other are attended to apart: the same as under a mask. Odd sides keep the mask."""
    torch.manual_seed(0)
    shift = (size[0] // 2, size[1] // 2) if shifted else (0, 0)
    layer = WindowAttention(6, 2, size, shift=shift, masked=masked)
    torch.nn.init.normal_(layer.table)
    tokens = torch.randn(2, *size, 6)
    torch.testing.assert_close(layer(tokens), masked_by_hand(layer, tokens, masked), atol=1e-5, rtol=1e-5)


def test_windows_do_not_see_each_other_and_shifted_ones_see_over_borders_only_where_allowed() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(1, 8, 8, 4)
    reached = {}
    for masked in (False, True):
        layer = WindowAttention(4, 1, (4, 4), shift=(2, 2), masked=(masked, masked))
        changed = tokens.clone()
        changed[0, 0, 0] += 1
        reached[masked] = ((layer(changed) - layer(tokens)).abs().sum(-1)[0] > 1e-7).nonzero().tolist()
    corner = {(r, c) for r in (0, 1) for c in (0, 1)}
    assert {tuple(place) for place in reached[True]} == corner
    assert {tuple(place) for place in reached[False]} == {(r, c) for r in (6, 7, 0, 1) for c in (6, 7, 0, 1)}


def test_torchs_kernel_and_half_precision_agree() -> None:
    q, k, v = torch.randn(3, 2, 2, 6, 4)
    table = torch.randn(3, 5, 2)
    bias = window_attention.relative_bias(table, (2, 3))
    expected = plain(q, k, v, bias)
    torch.testing.assert_close(attention(q, k, v, bias), expected)
    torch.testing.assert_close(relative_attention(q, k, v, table, (2, 3)), expected)
    torch.testing.assert_close(window_attention._fused(q, k, v, bias), expected)
    high = attention(*(tensor.double() for tensor in (q, k, v)), bias.double())
    torch.testing.assert_close(high, plain(*(tensor.double() for tensor in (q, k, v)), bias.double()), rtol=1e-12, atol=1e-12)
    low = [tensor.bfloat16() for tensor in (q, k, v)]
    torch.testing.assert_close(attention(*low, bias).float(), expected, atol=0.05, rtol=0.05)
    torch.testing.assert_close(relative_attention(*low, table, (2, 3)).float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("device", "side", "is_fused"), [("cpu", 8, False), ("cuda", 8, True), ("cpu", 32, False), ("cuda", 32, False)]
)
def test_meta_tensors_take_the_path_of_the_device_that_is_planned_for(device: str, side: int, is_fused: bool) -> None:
    """On a GPU one kernel forward and one backward for small windows, else chunks; as many floating-point operations in the
    products."""
    heads, tokens, channels = 2, side * side, 8
    with planned_for(device):
        found = trace_step(
            lambda: WindowAttention(heads * channels, heads, (side, side), shift=(0, 0), masked=(False, False)),
            lambda: {"x": torch.zeros(1, side, side, heads * channels)},
            lambda module, batch: module(batch["x"]).sum(),
        )
    fused = {call.name: count for call, count in found.calls.items() if "attention" in call.name}
    names = ("_scaled_dot_product_efficient_attention", "_scaled_dot_product_efficient_attention_backward")
    assert fused == (dict.fromkeys(names, 1) if is_fused else {})
    # q k^T and p v, and five products backward, the scores' once again among them.
    products = 7 * 2 * heads * tokens * tokens * channels
    linear = 2 * tokens * (2 * 3 + 3 * 1) * (heads * channels) ** 2  # nobody asks for the gradient of the input
    assert found.flops == products + linear
    assert device_type(torch.device("meta")) == "cpu"
    assert device_type(torch.device("cpu")) == "cpu"
