"""Window attention: the chunked kernel against torch's own, pieces of shifted windows against a mask over the whole window."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers import window_attention
from models.layers.window_attention import FORBIDDEN, WindowAttention, attention


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(1, 12))
def test_chunks_give_value_and_gradients_of_the_plain_form(windows: int, heads: int, tokens: int, width: int, chunk: int) -> None:
    random = torch.Generator().manual_seed(0)
    inputs = [torch.randn(windows, heads, tokens, width, generator=random, dtype=torch.float64) for _ in range(3)]
    bias = torch.randn(heads, tokens, tokens, generator=random, dtype=torch.float64)
    weight = torch.randn(windows, heads, tokens, width, generator=random, dtype=torch.float64)
    found = [tensor.clone().requires_grad_() for tensor in (*inputs, bias)]
    expected = [tensor.clone().requires_grad_() for tensor in (*inputs, bias)]
    ours = window_attention._Attention.apply(*found, chunk)
    q, k, v, b = expected
    plain = torch.softmax(q @ k.transpose(-1, -2) * width**-0.5 + b, dim=-1) @ v
    torch.testing.assert_close(ours, plain)
    (ours * weight).sum().backward()
    (plain * weight).sum().backward()
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def masked_by_hand(layer: WindowAttention, tokens: torch.Tensor, masked: tuple[bool, bool]) -> torch.Tensor:
    """One window over the whole map: roll, attend over all pairs under a mask, roll back; bias by index arithmetic."""
    batch, rows, columns, width = tokens.shape
    rolled = tokens.roll((-layer.shift[0], -layer.shift[1]), (1, 2)).reshape(batch, rows * columns, width)
    q, k, v = layer.qkv(rolled).view(batch, rows * columns, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    apart = place[:, None] - place[None] + torch.tensor([rows - 1, columns - 1])
    bias = layer.table[apart[..., 0], apart[..., 1]].permute(2, 0, 1)
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


def test_other_devices_take_torchs_kernel() -> None:
    q, k, v = torch.randn(3, 2, 2, 5, 4)
    bias = torch.randn(2, 5, 5)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(attention(q, k, v, bias), expected)
    low = [tensor.bfloat16() for tensor in (q, k, v)]
    torch.testing.assert_close(attention(*low, bias).float(), expected, atol=0.05, rtol=0.05)
