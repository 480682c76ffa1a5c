"""Parameters: closed forms against the modules, built on meta."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.layers.precision import planned_for
from models.piperag.retro.network import Retro, next_token_loss
from models.piperag.retro.shape import FAMILY, LATENCY_7C, PUBLISHED, SMALL_7A, TINY, RetroShape, Stack, cache_bytes, parameters
from results.errors import ConfigError

SHAPES = {"published": PUBLISHED, "7a": SMALL_7A, "7c": LATENCY_7C, "tiny": TINY, **FAMILY}


def on_meta(shape: RetroShape) -> Retro:
    with torch.device("meta"):
        return Retro(shape)


def count(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_closed_form_is_the_module(name: str) -> None:
    shape = SHAPES[name]
    model, parts = on_meta(shape), parameters(shape)
    assert count(model) == parts["total"]
    assert count(model.encoder) == parts["encoder"]
    assert count(model.head) == parts["head"]
    assert count(model.embedding) == parts["decoder_embedding"]


def test_published_counts() -> None:
    parts = parameters(PUBLISHED)
    assert parts["total"] == 633_142_016
    assert parts["total"] - parts["head"] == 583_793_408
    assert count(on_meta(PUBLISHED).layers[5].cross) == 7_474_944
    assert [round(parts[part] / 1e6, 2) for part in ("encoder", "encoder_embedding", "decoder", "decoder_embedding", "head")] == [
        58.85,
        28.79,
        524.94,
        49.35,
        49.35,
    ]


def test_the_small_network_counts_what_was_tried_out() -> None:
    assert parameters(SMALL_7A)["total"] == 271_616


def test_tied_head_and_no_cross_attention() -> None:
    tied = copy.deepcopy(TINY)
    tied.tied_head = True
    bare = copy.deepcopy(TINY)
    bare.decoder.cross_layers = []
    for shape in (tied, bare):
        assert count(on_meta(shape)) == parameters(shape)["total"]
    assert parameters(bare)["encoder"] == 0


def test_cross_attention_of_the_family_is_in_every_third_layer() -> None:
    assert FAMILY["425M"].decoder.cross_layers == PUBLISHED.decoder.cross_layers == [5, 8, 11]
    assert FAMILY["7.5B"].decoder.cross_layers == [8, 11, 14, 17, 20, 23, 26, 29]


def test_a_forward_pass_on_meta_has_the_shape_of_logits() -> None:
    with torch.device("meta"):
        logits = Retro(PUBLISHED)(torch.zeros(1, 96, dtype=torch.long), torch.zeros(1, 5, 2, 128, dtype=torch.long), 8)
    assert logits.shape == (1, 96, 32128)


def test_a_plan_for_a_gpu_keeps_no_scores() -> None:
    """Forward and backward: attention is one kernel, and no product of all pairs of tokens is left."""
    tokens, neighbours = torch.zeros(2, 96, dtype=torch.long), torch.zeros(2, 6, 2, 32, dtype=torch.long)
    shape = copy.deepcopy(SMALL_7A)
    shape.dropout = 0.1
    with planned_for("cuda"), FlopCounterMode(display=False) as counter, torch.device("meta"):
        model = Retro(shape)
        next_token_loss(model(tokens.to("meta"), neighbours.to("meta")), tokens.to("meta")).backward()
    kinds = {str(kind) for kind in counter.get_flop_counts()["Global"]}
    assert "aten.bmm" not in kinds
    assert "aten._scaled_dot_product_efficient_attention" in kinds


def test_bytes_of_the_cache() -> None:
    """12 layers, keys and values, 1024 x 1536 floats: 151 MB."""
    assert cache_bytes(PUBLISHED, tokens=1024) == 12 * 2 * 1024 * 1536 * 4 == 150_994_944


def test_shapes_are_plain() -> None:
    assert pickle.loads(pickle.dumps(PUBLISHED)) == PUBLISHED
    code = "import sys, models.piperag.retro.shape; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("stack", "where"),
    [
        (Stack(layers=2, width=10, ffn=4, heads=3), "heads"),
        (Stack(layers=2, width=8, ffn=4, heads=2, cross_layers=[2]), "cross_layers"),
        (Stack(layers=2, width=8, ffn=4, heads=2, cross_layers=[1, 1]), "cross_layers"),
        (Stack(layers=2, width=8, ffn=4, heads=2, self_buckets=0), "buckets"),
    ],
)
def test_impossible_shapes_are_refused(stack: Stack, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Retro(RetroShape(vocabulary=9, chunk_tokens=4, encoder=stack, decoder=stack))
    assert where in caught.value.where
