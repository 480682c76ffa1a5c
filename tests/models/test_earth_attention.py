"""Earth attention on one level against the plain form in three dimensions, which pads the level, masks and crops."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.dlwp.backbones import build
from models.dlwp.fields import Fields
from models.dlwp.shapes import Pangu
from models.layers.boundary import Boundary
from models.layers.earth_attention import LEVELS, EarthAttention
from models.layers.window_attention import FORBIDDEN

CHANNELS, HEADS = 6, 2


def regions(size: tuple[int, int, int], window: tuple[int, int, int], shift: tuple[int, int, int]) -> Tensor:
    """A number for each token of the rolled map: what the shift brought together from both ends has others. Levels and rows
    have ends, columns have none."""
    found = torch.zeros(size, dtype=torch.long)
    for axis in (0, 1):
        place = torch.arange(size[axis]).view([-1 if side == axis else 1 for side in range(3)])
        last = (place >= size[axis] - window[axis]).long() + (place >= size[axis] - shift[axis]).long()
        found += last * 3**axis
    return found


def in_three_dimensions(layer: EarthAttention, tokens: Tensor) -> Tensor:
    """Pad the level to two with zeros, rows and columns on both sides; roll by (1, rows, columns) where windows are shifted;
    attend within windows, bias by index arithmetic; roll back; crop."""
    batch, rows, columns, width = tokens.shape
    window = (LEVELS, *layer.window)
    lack = [-side % wide for side, wide in zip((rows, columns), layer.window, strict=True)]
    top, left = lack[0] // 2, lack[1] // 2
    size = (LEVELS, rows + lack[0], columns + lack[1])
    whole = tokens.new_zeros(batch, *size, width)
    whole[:, 0, top : top + rows, left : left + columns] = tokens
    moved = any(layer.shift)
    shift = (1, *layer.shift) if moved else (0, 0, 0)
    whole = whole.roll([-by for by in shift], (1, 2, 3))
    region = regions(size, window, shift)

    place = list(itertools.product(*map(range, window)))
    of_query, of_key = (torch.tensor(part) for part in zip(*itertools.product(place, place), strict=True))
    tables = layer.table.view(layer.types, HEADS, LEVELS, LEVELS, window[1], window[1], 2 * window[2] - 1)
    out = torch.zeros_like(whole)
    for row, column in itertools.product(range(0, size[1], window[1]), range(0, size[2], window[2])):
        cut = (slice(None), slice(row, row + window[1]), slice(column, column + window[2]))
        inside = whole[:, *cut].reshape(batch, len(place), width)
        q, k, v = (inside @ layer.weight.T + layer.bias).view(batch, -1, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        table = tables[row // window[1]]
        apart = of_query[:, 2] - of_key[:, 2] + window[2] - 1
        bias = table[:, of_query[:, 0], of_key[:, 0], of_query[:, 1], of_key[:, 1], apart]
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias.view(HEADS, len(place), len(place))
        if moved:
            number = region[cut].reshape(-1)
            scores = scores + (number[:, None] != number[None]) * FORBIDDEN
        mixed = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(batch, *window, width)
        out[:, *cut] = mixed
    out = out.roll((shift[0], *layer.unshift), (1, 2, 3))
    return layer.out(out[:, 0, top : top + rows, left : left + columns])


def layer_of(
    size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], unshift: int | None = None
) -> EarthAttention:
    torch.manual_seed(0)
    layer = EarthAttention(CHANNELS, HEADS, size, window, shift=shift, unshift_columns=unshift)
    for parameter in layer.parameters():  # biases and tables that count
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    return layer


#: Nothing to pad, and one, two, three or four rows and columns: an odd one more goes behind.
SIZES = [(4, 12), (3, 11), (6, 10), (5, 9), (4, 8), (9, 7)]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", [(2, 6), (4, 4)])
def test_one_level_is_the_plain_form_in_three_dimensions(size: tuple[int, int], window: tuple[int, int], shifted: bool) -> None:
    layer = layer_of(size, window, (window[0] // 2, window[1] // 2) if shifted else (0, 0))
    tokens = torch.randn(2, *size, CHANNELS)
    torch.testing.assert_close(layer(tokens), in_three_dimensions(layer, tokens), atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.data())
def test_any_size_window_and_shift(rows: int, columns: int, p: int, q: int, data: st.DataObject) -> None:
    shift = data.draw(st.tuples(st.integers(0, p - 1), st.integers(0, q - 1)))
    back = data.draw(st.integers(0, q))
    layer = layer_of((rows, columns), (p, q), shift, back if any(shift) else None)
    tokens = torch.randn(1, rows, columns, CHANNELS)
    with torch.no_grad():
        torch.testing.assert_close(layer(tokens), in_three_dimensions(layer, tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [(0, 0), (1, 3)])
def test_gradients_are_those_of_the_plain_form(shift: tuple[int, int]) -> None:
    layer, tokens = layer_of((3, 7), (2, 6), shift), torch.randn(2, 3, 7, CHANNELS, requires_grad=True)
    leaves = [tokens, *layer.parameters()]
    found = torch.autograd.grad(layer(tokens).sin().sum(), leaves)
    expected = torch.autograd.grad(in_three_dimensions(layer, tokens).sin().sum(), leaves)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def reached(layer: EarthAttention, row: int, column: int) -> set[tuple[int, int]]:
    tokens = torch.randn(1, *layer.size, CHANNELS)
    changed = tokens.clone()
    changed[0, row, column] += 1
    moved = (layer(changed) - layer(tokens)).abs().sum(-1)[0] > 1e-7
    return {(r, c) for r, c in moved.nonzero().tolist()}


def test_shifted_windows_see_across_the_meridian_but_not_over_the_pole() -> None:
    """Rows 0 and 7 meet in a shifted window and do not see each other, columns 0 and 11 do."""
    assert reached(layer_of((8, 12), (4, 6), (0, 0)), 0, 0) == set(itertools.product(range(4), range(6)))
    shifted = layer_of((8, 12), (4, 6), (2, 3))
    assert reached(shifted, 0, 0) == set(itertools.product((0, 1), (9, 10, 11, 0, 1, 2)))
    assert reached(shifted, 7, 5) == set(itertools.product((6, 7), range(3, 9)))
    assert reached(shifted, 3, 0) == set(itertools.product((2, 3, 4, 5), (9, 10, 11, 0, 1, 2)))


@pytest.mark.parametrize(("rows", "columns", "back"), [(3, 3, 6), (2, 2, 5)])
def test_columns_that_are_moved_back_too_far_end_up_further_east(rows: int, columns: int, back: int) -> None:
    """Published: rolled by the rows' 3, rolled back by 6: three columns east."""
    consistent = layer_of((12, 24), (6, 12), (rows, columns))
    published = layer_of((12, 24), (6, 12), (rows, columns), back)
    tokens = torch.randn(1, 12, 24, CHANNELS)
    torch.testing.assert_close(published(tokens), consistent(tokens).roll(back - columns, 2), atol=1e-6, rtol=1e-6)


def test_the_backbone_shifts_every_second_block_and_the_published_one_moves_columns() -> None:
    """Windows of 6 x 12: (3, 6) and back, or rows' 3 for both and 6 back."""
    fields = Fields(
        inputs=3, frame_inputs=3, outputs=2, height=32, width=64, boundary=Boundary.CYLINDER, latitudes_deg=tuple(range(32))
    )
    for published, expected in ((False, ((3, 6), (3, 6))), (True, ((3, 3), (3, 6)))):
        with torch.device("meta"):
            net = build(Pangu(embed=4, heads=[1, 2, 2, 1], published_shift=published), fields)
        assert [len(layer) for layer in net.layers] == [2, 6, 6, 2]
        for layer in net.layers:
            for index, block in enumerate(layer):
                attention = block.attention
                assert (attention.shift, attention.unshift) == (expected if index % 2 else ((0, 0), (0, 0)))
        sizes = [layer[0].attention.size for layer in net.layers]
        assert sizes == [(32, 64), (16, 32), (16, 32), (32, 64)]


def test_bf16_and_autocast() -> None:
    layer, tokens = layer_of((5, 9), (4, 6), (2, 3)), torch.randn(2, 5, 9, CHANNELS)
    with torch.no_grad():
        expected = layer(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = layer(tokens)
        low = layer.bfloat16()(tokens.bfloat16())
    assert (found.dtype, low.dtype) == (torch.bfloat16, torch.bfloat16)
    scale = expected.square().mean().sqrt()
    for values in (found, low):
        assert (values.float() - expected).square().mean().sqrt() < 0.05 * scale
