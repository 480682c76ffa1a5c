"""The teacher-forced network: against an independent slow one, and the invariants of chunked cross-attention."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.piperag.retro.chunked import num_read_windows, num_windows
from models.piperag.retro.network import Retro, next_token_loss, perplexity, token_losses
from models.piperag.retro.shape import SMALL_7A, TINY
from results.errors import ConfigError
from tests.models.piperag.plain_retro import plain_logits, random_model, random_texts, resized

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_logits_are_those_of_the_slow_network(data: st.DataObject) -> None:
    """Over chunk, interval, length, neighbours and batch, with pad among the neighbours."""
    chunk = data.draw(st.integers(1, 5), "c")
    interval = data.draw(st.integers(1, chunk), "m")
    length = data.draw(st.integers(1, 11), "n")
    k, batch = data.draw(st.integers(1, 2), "k"), data.draw(st.integers(1, 2), "batch")
    pad = data.draw(st.sampled_from([0.0, 0.4, 0.9]), "pad")
    shape = resized(TINY, chunk_tokens=chunk)
    shape.score_scale = data.draw(st.booleans(), "scaled")
    shape.tied_head = data.draw(st.booleans(), "tied")
    model = random_model(shape)
    windows = num_read_windows(length, chunk, interval)
    tokens = random_texts(shape, batch, length, pad=0.1)
    neighbours = random_texts(shape, batch, windows, k, 2 * chunk, seed=1, pad=pad)
    expected = plain_logits(model, tokens, neighbours, interval)
    torch.testing.assert_close(model(tokens, neighbours, interval), expected, **EXACT)


@pytest.mark.parametrize("length", [4, 7, 8, 13])
def test_an_interval_of_a_chunk_is_retro(length: int) -> None:
    model = random_model(TINY)
    tokens = random_texts(TINY, 2, length)
    neighbours = random_texts(TINY, 2, num_windows(length, 4, 4), 2, 8, seed=1, pad=0.2)
    torch.testing.assert_close(model(tokens, neighbours), plain_logits(model, tokens, neighbours, 4, fixed=True), **EXACT)


def first_changed(before: torch.Tensor, after: torch.Tensor) -> int | None:
    changed = (before != after).any(-1).any(0).nonzero().flatten().tolist()
    return changed[0] if changed else None


@pytest.mark.parametrize("interval", [1, 3, 4, 8])
def test_neighbours_of_a_window_reach_no_position_before_its_first(interval: int) -> None:
    """For c = 8 and m = 4: 7, 11, 15, and so on. What is computed for earlier positions does not change by a bit."""
    shape = resized(TINY, chunk_tokens=8)
    model = random_model(shape)
    length = 24
    windows = num_read_windows(length, 8, interval)
    tokens, neighbours = random_texts(shape, 1, length), random_texts(shape, 1, windows, 2, 16, seed=1)
    before = model(tokens, neighbours, interval)
    firsts = []
    for window in range(windows):
        other = neighbours.clone()
        other[:, window] = other[:, window] % (shape.vocabulary - 1) + 1
        firsts.append(first_changed(before, model(tokens, other, interval)))
    assert firsts == [7 + window * interval for window in range(windows)]
    if interval == 4:
        assert firsts[:3] == [7, 11, 15]


@pytest.mark.parametrize("interval", [1, 2, 3, 4])
def test_a_token_reaches_no_position_before_its_own(interval: int) -> None:
    """Not even through the windows that neighbours are encoded in sight of."""
    model = random_model(TINY)
    length = 13
    tokens = random_texts(TINY, 1, length)
    neighbours = random_texts(TINY, 1, num_read_windows(length, 4, interval), 2, 8, seed=1)
    before = model(tokens, neighbours, interval)
    for position in range(length):
        other = tokens.clone()
        other[:, position] = other[:, position] % (TINY.vocabulary - 1) + 1
        assert first_changed(before, model(other, neighbours, interval)) == position


def test_a_window_is_read_in_its_interval_only_but_for_self_attention() -> None:
    """With cross-attention in the last layer alone, no later position sees what a window gave."""
    shape = copy.deepcopy(TINY)
    shape.decoder.cross_layers = [2]
    model = random_model(shape)
    tokens, neighbours = random_texts(shape, 1, 12), random_texts(shape, 1, 5, 2, 8, seed=1)
    before = model(tokens, neighbours, 2)
    other = neighbours.clone()
    other[:, 1] = other[:, 1] % (shape.vocabulary - 1) + 1
    changed = (before != model(tokens, other, 2)).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [5, 6]


@pytest.mark.parametrize("interval", [1, 3, 4])
def test_no_retrieval_is_the_network_without_cross_attention(interval: int) -> None:
    model = random_model(TINY)
    tokens = random_texts(TINY, 2, 11)
    neighbours = torch.zeros(2, num_windows(11, 4, interval), 2, 8, dtype=torch.long)
    bare = copy.deepcopy(model)
    for layer in bare.layers:
        layer.cross = None
    expected = bare(tokens)
    assert torch.equal(model(tokens), expected)
    assert torch.equal(model(tokens, neighbours, interval), expected)


def test_a_window_without_neighbours_adds_nothing_beside_others_that_have_some() -> None:
    shape = copy.deepcopy(TINY)
    shape.decoder.cross_layers = [2]
    model = random_model(shape)
    tokens, neighbours = random_texts(shape, 2, 12), random_texts(shape, 2, 5, 2, 8, seed=1)
    neighbours[1, 1] = 0
    found, bare = model(tokens, neighbours, 2), model(tokens)
    same = (found == bare).all(-1)
    assert same[0].tolist() == [True] * 3 + [False] * 9
    assert same[1].tolist() == [True] * 3 + [False] * 2 + [True] * 2 + [False] * 5


def test_the_first_positions_never_depend_on_neighbours() -> None:
    model = random_model(SMALL_7A, dtype=torch.float32)
    tokens, neighbours = random_texts(SMALL_7A, 1, 40), random_texts(SMALL_7A, 1, 4, 2, 32, seed=1)
    assert torch.equal(model(tokens, neighbours, 8)[:, :15], model(tokens)[:, :15])


def test_a_last_window_beyond_the_text_is_read_by_nothing() -> None:
    model = random_model(TINY)
    tokens, neighbours = random_texts(TINY, 1, 9), random_texts(TINY, 1, 3, 2, 8, seed=1)
    assert (num_windows(9, 4, 3), num_read_windows(9, 4, 3)) == (3, 2)
    assert torch.equal(model(tokens, neighbours, 3), model(tokens, neighbours[:, :2], 3))


def test_a_text_shorter_than_a_chunk_has_no_window() -> None:
    model = random_model(TINY)
    tokens = random_texts(TINY, 2, 3)
    assert torch.equal(model(tokens, random_texts(TINY, 2, 1, 2, 8)), model(tokens))


def test_pad_behind_a_text_changes_nothing_before_it() -> None:
    model = random_model(TINY)
    tokens, neighbours = random_texts(TINY, 1, 12), random_texts(TINY, 1, 3, 2, 8, seed=1)
    tokens[:, 8:] = 0
    torch.testing.assert_close(model(tokens, neighbours)[:, :8], model(tokens[:, :8], neighbours[:, :2]), **EXACT)


def test_gradients_are_numbers_and_reach_every_parameter() -> None:
    """Whole windows, whole neighbours and single tokens are pad."""
    model = random_model(TINY).train()
    tokens, neighbours = random_texts(TINY, 2, 13), random_texts(TINY, 2, 4, 2, 8, seed=1, pad=0.3)
    neighbours[0, 1] = neighbours[1, 2, 0] = 0
    next_token_loss(model(tokens, neighbours, 3), tokens).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_gradients_of_the_biases_by_finite_differences() -> None:
    model = random_model(TINY)
    tokens, neighbours = random_texts(TINY, 1, 10), random_texts(TINY, 1, 3, 2, 8, seed=1, pad=0.2)

    def loss() -> torch.Tensor:
        return next_token_loss(model(tokens, neighbours, 3), tokens)

    tables = [parameter for name, parameter in model.named_parameters() if name.endswith("table")]
    for table, gradient in zip(tables, torch.autograd.grad(loss(), tables), strict=True):
        with torch.no_grad():
            table[0, 0] += 1e-5
            above = loss()
            table[0, 0] -= 2e-5
            below = loss()
            table[0, 0] += 1e-5
        assert gradient[0, 0].item() == pytest.approx((above - below).item() / 2e-5, abs=1e-7)


def test_it_learns_to_copy_from_its_neighbours() -> None:
    """Random texts cannot be predicted (16 tokens: perplexity 16); the neighbour holds what follows."""
    torch.manual_seed(0)
    shape = resized(TINY, chunk_tokens=4)
    shape.encoder.width = shape.decoder.width = 24
    shape.encoder.heads = shape.decoder.heads = 4
    shape.encoder.self_buckets = shape.encoder.cross_buckets = shape.decoder.self_buckets = 24
    shape.decoder.cross_buckets = 24
    model = Retro(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        tokens = torch.randint(1, 17, (32, 12))
        neighbours = torch.stack((tokens[:, :8], tokens[:, 4:], torch.zeros_like(tokens[:, 4:])), 1).unsqueeze(2)
        loss = next_token_loss(model(tokens, neighbours), tokens, first=4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert perplexity(loss) < 8


def test_dropout_is_random_in_training_only() -> None:
    shape = resized(TINY)
    shape.dropout = 0.5
    model = random_model(shape)
    tokens, neighbours = random_texts(shape, 1, 9), random_texts(shape, 1, 3, 2, 8, seed=1)
    assert torch.equal(model(tokens, neighbours, 3), model(tokens, neighbours, 3))
    model.train()
    assert not torch.equal(model(tokens, neighbours, 3), model(tokens, neighbours, 3))


def test_losses_count_what_they_say() -> None:
    """Uniform logits: ln V for each of the tokens that are not pad, from the first position asked for."""
    tokens = torch.tensor([[1, 2, 3, 0, 0], [1, 2, 3, 4, 0]])
    logits = torch.zeros(2, 5, 17)
    losses, counted = token_losses(logits, tokens)
    assert counted.tolist() == [[True, True, False, False], [True, True, True, False]]
    assert losses.sum().item() == pytest.approx(5 * math.log(17))
    assert next_token_loss(logits, tokens).item() == pytest.approx(math.log(17))
    assert perplexity(next_token_loss(logits, tokens)) == pytest.approx(17)
    assert token_losses(logits, tokens, first=3)[1].tolist() == [[False, False], [True, False]]
    assert next_token_loss(logits, torch.zeros_like(tokens)).item() == 0


def test_a_loss_is_that_of_the_position_before() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 1, 3] = 100.0
    losses, _ = token_losses(logits, torch.tensor([[1, 2, 3]]))
    assert losses[0].tolist() == pytest.approx([math.log(4), 0.0])


@pytest.mark.parametrize(
    ("windows", "interval"),
    [(3, 0), (3, 5), (1, 4), (4, 4)],
)
def test_intervals_and_windows_that_do_not_fit_are_refused(windows: int, interval: int) -> None:
    model = random_model(TINY)
    with pytest.raises(ConfigError):
        model(random_texts(TINY, 1, 12), random_texts(TINY, 1, windows, 2, 8), interval)


def test_neighbours_of_another_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit 2 texts"):
        random_model(TINY)(random_texts(TINY, 2, 12), random_texts(TINY, 1, 3, 2, 8))
