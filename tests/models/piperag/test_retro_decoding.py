"""Incremental decoding: the numbers of the teacher-forced network, token by token."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.piperag.retro.chunked import num_read_windows
from models.piperag.retro.decoding import IncrementalDecoder
from models.piperag.retro.network import Retro
from models.piperag.retro.shape import SMALL_7A, TINY, cache_bytes
from models.piperag.retro.state import DecodingState, StateRing
from results.errors import ConfigError
from tests.models.piperag.plain_retro import Plain, random_model, random_texts, resized

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def decode(
    decoder: IncrementalDecoder, state: DecodingState, tokens: torch.Tensor, neighbours: torch.Tensor | None, *, begin: int = 0
) -> torch.Tensor:
    """Steps along a text from ``begin`` on, neighbours set at each boundary, ``[batch, n - begin, vocabulary]``."""
    chunk, logits = decoder.model.chunk, []
    for position in range(begin, tokens.shape[1]):
        window, off = divmod(position - (chunk - 1), state.interval)
        if neighbours is not None and window >= 0 and not off:
            decoder.set_neighbours(state, neighbours[:, window])
        logits.append(decoder.step(state, tokens[:, position]))
    return torch.stack(logits, 1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_steps_and_prefill_give_the_logits_of_the_whole_text(data: st.DataObject) -> None:
    """Over chunk, interval, length, neighbours, batch and prompt, across boundaries, with pad among tokens and neighbours."""
    chunk = data.draw(st.integers(1, 6), "c")
    interval = data.draw(st.integers(1, chunk), "m")
    length = data.draw(st.integers(1, 20), "n")
    k, batch = data.draw(st.integers(1, 3), "k"), data.draw(st.integers(1, 3), "batch")
    prompt, room = data.draw(st.integers(0, length), "prompt"), data.draw(st.integers(0, 3), "room")
    pad = data.draw(st.sampled_from([0.0, 0.3, 0.95]), "pad")
    shape = resized(TINY, chunk_tokens=chunk)
    shape.score_scale = data.draw(st.booleans(), "scaled")
    shape.tied_head = data.draw(st.booleans(), "tied")
    model = random_model(shape)
    tokens = random_texts(shape, batch, length, pad=0.1)
    windows = num_read_windows(length, chunk, interval)
    neighbours = random_texts(shape, batch, windows, k, 2 * chunk, seed=1, pad=pad)
    decoder = IncrementalDecoder(model)
    state = decoder.start(batch=batch, max_tokens=length + room, interval=interval)
    parts = [decoder.prefill(state, tokens[:, :prompt], neighbours)] if prompt else []
    if prompt < length:
        parts.append(decode(decoder, state, tokens, neighbours, begin=prompt))
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens, neighbours, interval).detach(), **EXACT)
    assert state.length == length


@pytest.mark.parametrize("interval", [4, 8, 16])
def test_the_small_network_in_single_precision(interval: int) -> None:
    """To 1e-5, with the initial weights of training."""
    torch.manual_seed(0)
    model = Retro(SMALL_7A).eval()
    tokens = random_texts(SMALL_7A, 1, 80)
    neighbours = random_texts(SMALL_7A, 1, num_read_windows(80, 16, interval), 2, 32, seed=1)
    decoder = IncrementalDecoder(model)
    state = decoder.start(batch=1, max_tokens=80, interval=interval)
    found = decode(decoder, state, tokens, neighbours)
    torch.testing.assert_close(found, model(tokens, neighbours, interval).detach(), rtol=1e-5, atol=1e-5)


def test_without_retrieval() -> None:
    model = random_model(TINY)
    tokens = random_texts(TINY, 2, 15)
    decoder = IncrementalDecoder(model)
    state = decoder.start(batch=2, max_tokens=15, interval=2)
    torch.testing.assert_close(decode(decoder, state, tokens, None), model(tokens).detach(), **EXACT)
    assert state.neighbours is None


def test_a_network_without_cross_attention_decodes_and_refuses_neighbours() -> None:
    shape = copy.deepcopy(TINY)
    shape.decoder.cross_layers = []
    model = random_model(shape)
    tokens = random_texts(shape, 2, 9)
    decoder = IncrementalDecoder(model)
    state = decoder.start(batch=2, max_tokens=9, interval=2)
    torch.testing.assert_close(decode(decoder, state, tokens, None), model(tokens).detach(), **EXACT)
    with pytest.raises(ConfigError, match="reads no neighbours"):
        decoder.set_neighbours(state, random_texts(shape, 2, 2, 8))


def test_a_set_that_is_all_pad_ends_retrieval() -> None:
    model = random_model(TINY)
    tokens, neighbours = random_texts(TINY, 1, 12), random_texts(TINY, 1, 3, 2, 8, seed=1)
    neighbours[:, 1] = 0
    decoder = IncrementalDecoder(model)
    state = decoder.start(batch=1, max_tokens=12, interval=4)
    torch.testing.assert_close(decode(decoder, state, tokens, neighbours), model(tokens, neighbours).detach(), **EXACT)
    decoder.prefill(state := decoder.start(batch=1, max_tokens=12, interval=4), tokens[:, :8], neighbours)
    assert state.neighbours is None


def test_neighbours_before_a_whole_chunk_are_encoded_in_sight_of_the_text_there_is() -> None:
    """A prompt of 3 tokens, neighbours announced with the second: encoded by the slow network in sight of 2 states, no zeros."""
    shape = resized(TINY, chunk_tokens=4)
    model = random_model(shape)
    tokens, values = random_texts(shape, 1, 3), random_texts(shape, 1, 2, 8, seed=1)
    decoder = IncrementalDecoder(model)
    state = decoder.start(batch=1, max_tokens=8, interval=4)
    decoder.step(state, tokens[:, 0])
    decoder.set_neighbours(state, values)
    decoder.step(state, tokens[:, 1])
    assert state.ring is not None
    assert state.neighbours is not None
    states = state.ring.window()[0]
    assert states.shape == (2, shape.decoder.width)
    encoded = torch.stack([Plain(model).encode(value, states) for value in values[0]])
    keys = (encoded.flatten(0, 1) @ model.layers[1].cross.key_value.weight.T).chunk(2, 1)[0].unflatten(1, (3, 4)).transpose(0, 1)
    torch.testing.assert_close(state.neighbours.keys[0].mT, keys.detach(), **EXACT)


@pytest.mark.parametrize("prompt", [1, 2, 3])
def test_a_prompt_shorter_than_a_chunk(prompt: int) -> None:
    """Its states stay in the first window: neighbours that are set at the first boundary are those of the whole text."""
    model = random_model(TINY)
    tokens, neighbours = random_texts(TINY, 2, 9), random_texts(TINY, 2, 3, 2, 8, seed=1)
    decoder = IncrementalDecoder(model)
    state = decoder.start(batch=2, max_tokens=9, interval=2)
    first = decoder.prefill(state, tokens[:, :prompt], neighbours)
    rest = decode(decoder, state, tokens, neighbours, begin=prompt)
    torch.testing.assert_close(torch.cat((first, rest), 1), model(tokens, neighbours, 2).detach(), **EXACT)


def test_a_set_that_is_kept_is_read_as_by_its_own_interval_again() -> None:
    """Cross-attention in the last layer alone: the set of window 0, read by interval 1 at the same places."""
    shape = copy.deepcopy(TINY)
    shape.decoder.cross_layers = [2]
    model = random_model(shape)
    decoder = IncrementalDecoder(model)
    state = decoder.start(batch=1, max_tokens=20, interval=3)
    decoder.prefill(state, random_texts(shape, 1, 4), random_texts(shape, 1, 1, 2, 8, seed=1))
    offsets = []
    for _ in range(7):
        offsets.append(state.offset)
        decoder.step(state, torch.tensor([1]))
    assert offsets == [1, 2, 0, 1, 2, 0, 1]


def test_greedy_decoding_is_that_of_recomputing_everything() -> None:
    model = random_model(TINY)
    decoder = IncrementalDecoder(model)
    state = decoder.start(batch=2, max_tokens=14, interval=3)
    tokens, neighbours = random_texts(TINY, 2, 1), random_texts(TINY, 2, 4, 2, 8, seed=1)
    for position in range(13):
        window, off = divmod(position - 3, 3)
        if window >= 0 and not off:
            decoder.set_neighbours(state, neighbours[:, window])
        found = decoder.step(state, tokens[:, position])
        whole = model(tokens, neighbours[:, : num_read_windows(position + 1, 4, 3)], 3)[:, -1]
        assert torch.equal(found.argmax(1), whole.argmax(1))
        tokens = torch.cat((tokens, found.argmax(1, keepdim=True)), 1)


def test_going_back_to_a_mark() -> None:
    """Tokens and neighbours that were tried out leave nothing behind."""
    model = random_model(TINY)
    tokens, neighbours = random_texts(TINY, 1, 14), random_texts(TINY, 1, 6, 2, 8, seed=1)
    decoder = IncrementalDecoder(model)
    state = decoder.start(batch=1, max_tokens=30, interval=2)
    decoder.prefill(state, tokens[:, :7], neighbours)
    decoder.set_neighbours(state, neighbours[:, 2])
    mark = state.mark()
    for seed in (5, 6):
        decode(decoder, state, random_texts(TINY, 1, 16, seed=seed), random_texts(TINY, 1, 7, 2, 8, seed=seed), begin=7)
        state.rewind(mark)
    found = decode(decoder, state, tokens, neighbours, begin=7)
    torch.testing.assert_close(found, model(tokens, neighbours, 2)[:, 7:].detach(), **EXACT)


def test_logits_of_a_step_are_not_overwritten_by_the_next() -> None:
    decoder = IncrementalDecoder(random_model(TINY))
    state = decoder.start(batch=1, max_tokens=4, interval=4)
    first = decoder.step(state, torch.tensor([1]))
    kept = first.clone()
    decoder.step(state, torch.tensor([2]))
    assert torch.equal(first, kept)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(1, 7), min_size=1, max_size=8))
def test_the_ring_holds_the_newest_states_in_order(slots: int, counts: list[int]) -> None:
    ring = StateRing(2, slots, torch.zeros(3))
    pushed = torch.empty(2, 0, 3)
    for count in counts:
        states = torch.randn(2, count, 3)
        pushed = torch.cat((pushed, states), 1)
        if count == 1:
            ring.push_one(states[:, 0])
        else:
            ring.push(states)
        assert torch.equal(ring.window(), pushed[:, -slots:])
        assert ring.pushed == pushed.shape[1]


def test_a_full_state_refuses_more() -> None:
    decoder = IncrementalDecoder(random_model(TINY))
    state = decoder.start(batch=1, max_tokens=2, interval=4)
    decoder.prefill(state, torch.tensor([[1, 2]]))
    with pytest.raises(ConfigError, match="do not fit"):
        decoder.step(state, torch.tensor([3]))
    with pytest.raises(ConfigError, match="do not fit"):
        decoder.prefill(decoder.start(batch=1, max_tokens=2, interval=4), torch.tensor([[1, 2, 3]]))


def test_what_cannot_be_started_or_set_is_refused() -> None:
    model = random_model(TINY)
    decoder = IncrementalDecoder(model)
    for wrong in ({"interval": 5}, {"interval": 0}, {"batch": 0}, {"max_tokens": 0}):
        with pytest.raises(ConfigError):
            decoder.start(**{"batch": 1, "max_tokens": 8, "interval": 4, **wrong})
    state = decoder.start(batch=2, max_tokens=8, interval=4)
    with pytest.raises(ConfigError, match="for 2 texts"):
        decoder.set_neighbours(state, random_texts(TINY, 1, 2, 8))
    with pytest.raises(ConfigError, match="reads 2 windows"):
        decoder.prefill(state, random_texts(TINY, 2, 8), random_texts(TINY, 2, 1, 2, 8))
    decoder.prefill(state, random_texts(TINY, 2, 1))
    with pytest.raises(ConfigError, match="taken before"):
        decoder.prefill(state, random_texts(TINY, 2, 1))
    model.train()
    with pytest.raises(ConfigError, match="training mode"):
        decoder.start(batch=1, max_tokens=8, interval=4)


def test_bytes_of_the_cache_are_the_closed_form() -> None:
    model = random_model(SMALL_7A, dtype=torch.float32)
    state = IncrementalDecoder(model).start(batch=3, max_tokens=50, interval=4)
    assert state.bytes == cache_bytes(SMALL_7A, tokens=50, batch=3)
