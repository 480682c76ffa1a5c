"""The parts of RETRO by themselves: known answers and closed forms."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.piperag.retro.blocks import Common, FeedForward, Linear, PositionBias, RMSNorm, SelfAttention, causal_line, slide
from models.piperag.retro.chunked import forbidden_keys, num_read_windows, num_windows
from models.piperag.retro.network import Retro
from models.piperag.retro.shape import SMALL_7A
from tests.models.piperag.plain_retro import bucket


def test_normalisation_has_its_epsilon_outside_the_root() -> None:
    """||(3, 4)|| = 5, so the root mean square is 5 / sqrt 2. For a tiny vector eps = 1e-8 outside the root halves the result,
    where inside it would leave nothing."""
    norm = RMSNorm(2).double()
    with torch.no_grad():
        norm.scale.copy_(torch.tensor([1.0, 2.0]))
    rms = 5 / math.sqrt(2)
    expected = torch.tensor([3 / (rms + 1e-8), 8 / (rms + 1e-8)], dtype=torch.float64)
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0], dtype=torch.float64)), expected, rtol=1e-15, atol=0)
    tiny = torch.tensor([1e-8, 1e-8], dtype=torch.float64)
    torch.testing.assert_close(norm(tiny), torch.tensor([0.5, 1.0], dtype=torch.float64), rtol=1e-12, atol=0)
    assert norm(torch.zeros(1, 2, dtype=torch.float64)).eq(0).all()


@pytest.mark.parametrize(("buckets", "low", "high"), [(192, -95, 96), (256, -127, 128), (4, -1, 2), (5, -2, 2), (1, 0, 0)])
def test_buckets_of_both_directions(buckets: int, low: int, high: int) -> None:
    position = PositionBias(buckets, 1, causal=False)
    assert (position.low, position.high) == (low, high)
    assert position.high - position.low + 1 == buckets


@pytest.mark.parametrize("buckets", [1, 2, 1024])
def test_causal_buckets(buckets: int) -> None:
    position = PositionBias(buckets, 1, causal=True)
    assert (position.low, position.high) == (1 - buckets, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.booleans(), st.integers(1, 8), st.integers(1, 8))
def test_biases_per_pair_are_those_of_the_closed_form(buckets: int, causal: bool, queries: int, keys: int) -> None:
    position = PositionBias(buckets, 2, causal=causal)
    torch.nn.init.normal_(position.table)
    found = slide(position(1 - queries, keys - 1), queries, keys)
    assert found.shape == (2, queries, keys)
    for i in range(queries):
        for j in range(keys):
            assert torch.equal(found[:, i, j], position.table[bucket(j - i, buckets, causal)])


def test_a_causal_line_forbids_the_future_and_nothing_else() -> None:
    position = PositionBias(3, 2, causal=True)
    bias = slide(causal_line(position, 5), 5, 5)
    assert torch.equal(bias[0] == -torch.inf, torch.ones(5, 5, dtype=torch.bool).triu(1))


def test_gradients_reach_every_bucket_that_was_used() -> None:
    """Of 5 tokens the distances 0 to 4 occur 5, 4, .., 1 times; with 3 buckets those from 2 on share one: 3 + 2 + 1."""
    position = PositionBias(3, 1, causal=True)
    bias = slide(causal_line(position, 5), 5, 5)
    bias[bias > -torch.inf].sum().backward()
    assert position.table.grad is not None
    assert position.table.grad[:, 0].tolist() == [6.0, 4.0, 5.0]


def test_attention_of_one_token_is_its_value() -> None:
    layer = SelfAttention(4, 2, 8, Common(1.0, False, 0.0), causal=True).double()
    x = torch.randn(1, 1, 4, dtype=torch.float64)
    value = layer.qkv(layer.norm(x)).chunk(3, -1)[2]
    torch.testing.assert_close(layer(x), x + layer.out(value))


def test_scores_are_scaled_only_when_asked() -> None:
    x = torch.randn(1, 5, 8)
    outputs = []
    for scaled, factor in ((False, 8**-0.25), (True, 1.0)):
        torch.manual_seed(0)
        layer = SelfAttention(8, 1, 8, Common(1.0, scaled, 0.0), causal=True)
        with torch.no_grad():  # queries and keys smaller by the fourth root of 8: scores by its square root
            layer.qkv.weight[:16] *= factor
        outputs.append(layer(x))
    torch.testing.assert_close(outputs[0], outputs[1])


def test_a_gated_network_with_known_numbers() -> None:
    """All weights 1, one channel: x = 2 is normalised to 1, gelu(1) = 0.841192 by the tanh approximation."""
    layer = FeedForward(1, 1, Common(1.0, False, 0.0)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)
    gelu = 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715))
    assert gelu == pytest.approx(0.841192, abs=1e-6)
    assert layer(torch.tensor([[2.0]], dtype=torch.float64)).item() == pytest.approx(2 + gelu, abs=1e-7)


def test_matrices_start_with_a_spread_of_gain_by_root_of_inputs() -> None:
    torch.manual_seed(0)
    assert Linear(400, 500, 0.6).weight.std().item() == pytest.approx(0.6 / 20, rel=0.01)
    assert PositionBias(7, 2, causal=True).table.eq(0).all()


def test_embeddings_start_with_a_spread_of_one_unless_they_are_the_head() -> None:
    torch.manual_seed(0)
    shape = copy.deepcopy(SMALL_7A)
    assert Retro(shape).embedding.weight.std().item() == pytest.approx(1, rel=0.05)
    shape.tied_head = True
    assert Retro(shape).embedding.weight.std().item() == pytest.approx(0.6 / 8, rel=0.05)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.data())
def test_windows_that_are_read_are_the_complete_ones(tokens: int, chunk: int, data: st.DataObject) -> None:
    interval = data.draw(st.integers(1, chunk))
    complete = sum(j * interval + chunk <= tokens for j in range(tokens))
    read = {(position - (chunk - 1)) // interval for position in range(chunk - 1, tokens)}
    assert num_read_windows(tokens, chunk, interval) == complete == len(read)
    if tokens >= chunk:
        assert num_windows(tokens, chunk, interval) == math.ceil((tokens - chunk) / interval) + 1
        assert num_windows(tokens, chunk, interval) - complete in (0, 1)


def test_of_a_set_that_is_all_pad_no_key_is_forbidden() -> None:
    known = torch.tensor([[[True, False]], [[False, False]]])
    assert forbidden_keys(known).tolist() == [[False, True], [False, False]]
