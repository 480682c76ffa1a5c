"""The layout of the public checkpoint: names written down here once more, as its network builds them, with made-up tensors."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from models.piperag.retro.checkpoint import load_published, published_names, read_shape
from models.piperag.retro.network import Retro
from models.piperag.retro.shape import PUBLISHED, TINY, RetroShape, Stack, parameters
from results.errors import DataError
from tests.models.piperag.plain_retro import random_model, random_texts


def layout(shape: RetroShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the public layout."""
    names: dict[str, tuple[int, ...]] = {}

    def attention(prefix: str, width: int, heads: int, buckets: int) -> None:
        names[f"{prefix}.ln.scale"] = (width,)
        names[f"{prefix}.multi_head_attention.final_proj.weight"] = (width, width)
        names[f"{prefix}.multi_head_attention.positional_bias.relative_attention_bias.weight"] = (buckets, heads)

    def layers(prefix: str, stack: Stack, reads: int) -> None:
        for index in range(stack.layers):
            attention(f"{prefix}.{index}.0", stack.width, stack.heads, stack.self_buckets)
            names[f"{prefix}.{index}.0.qkv_proj.weight"] = (3 * stack.width, stack.width)
            if index in stack.cross_layers:
                attention(f"{prefix}.{index}.1", stack.width, stack.heads, stack.cross_buckets)
                names[f"{prefix}.{index}.1.q_proj.weight"] = (stack.width, stack.width)
                names[f"{prefix}.{index}.1.kv_proj.weight"] = (2 * stack.width, reads)
            names[f"{prefix}.{index}.2.layer_norm.scale"] = (stack.width,)
            names[f"{prefix}.{index}.2.wi_0.weight"] = names[f"{prefix}.{index}.2.wi_1.weight"] = (stack.ffn, stack.width)
            names[f"{prefix}.{index}.2.wo.weight"] = (stack.width, stack.ffn)

    names["base.dec_embs.weight"] = (shape.vocabulary, shape.decoder.width)
    names["base.encoder.enc_embs.weight"] = (shape.vocabulary, shape.encoder.width)
    layers("base.encoder.layers", shape.encoder, shape.decoder.width)
    layers("base.decoder", shape.decoder, shape.encoder.width)
    names["base.final_layer_norm.scale"] = (shape.decoder.width,)
    names["lm_head.weight"] = (shape.vocabulary, shape.decoder.width)
    return names


def tensors(shape: RetroShape) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(size, generator=random) for name, size in layout(shape).items()}


def written(found: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(found, path)
    return path


@pytest.mark.parametrize("shape", [TINY, PUBLISHED], ids=["tiny", "published"])
def test_every_tensor_of_the_layout_has_one_place(shape: RetroShape) -> None:
    sources = [source for names in published_names(shape).values() for source in names]
    assert sorted(sources) == sorted(layout(shape))
    with torch.device("meta"):
        assert set(published_names(shape)) == set(Retro(shape).state_dict())


def test_tensors_arrive_where_they_belong(tmp_path: Path) -> None:
    found = tensors(TINY)
    model = Retro(TINY)
    load_published(model, written(found, tmp_path / "model.ckpt"))
    assert torch.equal(model.layers[1].cross.key_value.weight, found["base.decoder.1.1.kv_proj.weight"])
    w0, w1 = model.encoder.layers[0].feed_forward.wide.weight.chunk(2)
    assert torch.equal(w0, found["base.encoder.layers.0.2.wi_0.weight"])
    assert torch.equal(w1, found["base.encoder.layers.0.2.wi_1.weight"])
    own = model.state_dict()
    back = {
        source: part
        for name, sources in published_names(TINY).items()
        for source, part in zip(sources, own[name].chunk(len(sources)), strict=True)
    }
    assert back.keys() == found.keys()
    assert all(torch.equal(back[name], found[name]) for name in found)


def test_a_lightning_file_and_a_network_on_meta(tmp_path: Path) -> None:
    found = tensors(TINY)
    path = written({"epoch": 3, "state_dict": found}, tmp_path / "model.ckpt")  # type: ignore[dict-item]
    plain = Retro(TINY).eval()
    with torch.device("meta"):
        planned = Retro(TINY).eval()
    load_published(plain, path)
    load_published(planned, path)
    tokens, neighbours = random_texts(TINY, 1, 9), random_texts(TINY, 1, 2, 2, 8, seed=1)
    assert torch.equal(plain(tokens, neighbours), planned(tokens, neighbours))


def test_the_type_of_the_network_is_kept(tmp_path: Path) -> None:
    model = random_model(TINY)
    load_published(model, written(tensors(TINY), tmp_path / "model.ckpt"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("base.decoder.2.0.qkv_proj.weight"), r"lacks base\.decoder\.2\.0\.qkv_proj\.weight"),
        (lambda found: found.update({"base.decoder.9.0.ln.scale": torch.ones(12)}), r"unexpected base\.decoder\.9\.0\.ln\.scale"),
        (lambda found: found.update({"lm_head.weight": torch.ones(3, 12)}), r"'lm_head\.weight' has shape \[3, 12\].*\[17, 12\]"),
        (
            lambda found: found.update({"base.decoder.0.2.wi_1.weight": torch.ones(21, 12)}),
            r"'base\.decoder\.0\.2\.wi_1\.weight' has shape \[21, 12\].*\[20, 12\]",
        ),
        (lambda found: found.clear(), r"lacks .* and \d+ more"),
    ],
)
def test_wrong_tensors_are_named(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    found, model = tensors(TINY), Retro(TINY)
    before = copy.deepcopy(model.state_dict())
    change(found)
    with pytest.raises(DataError, match=message) as caught:
        load_published(model, written(found, tmp_path / "model.ckpt"))
    assert "model.ckpt" in caught.value.where
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_tied_head_must_be_the_embedding(tmp_path: Path) -> None:
    shape = copy.deepcopy(TINY)
    shape.tied_head = True
    found = tensors(shape)
    with pytest.raises(DataError, match="differs from the embedding"):
        load_published(Retro(shape), written(found, tmp_path / "apart.ckpt"))
    found["lm_head.weight"] = found["base.dec_embs.weight"]
    model = Retro(shape)
    load_published(model, written(found, tmp_path / "tied.ckpt"))
    assert torch.equal(model.head_weight, found["lm_head.weight"])


class Harmful:
    """What a hostile file would run when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code was run')",)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    model = Retro(TINY)
    with pytest.raises(DataError, match="no checkpoint"):
        load_published(model, tmp_path / "absent.ckpt")
    for name, content in (("noise", b"\x00\x01nothing"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            load_published(model, tmp_path / name)
    whole = written(tensors(TINY), tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        load_published(model, tmp_path / "cut")
    torch.save({"state_dict": Harmful()}, tmp_path / "harmful")
    with pytest.raises(DataError, match="cannot be read"):
        load_published(model, tmp_path / "harmful")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(DataError, match="no dictionary of tensors"):
        load_published(model, tmp_path / "list")


RETRO_JSON = {
    "num_embeddings": 32128,
    "pad_token_idx": 0,
    "chunk_size": 64,
    "dropout_p": 0.1,
    "enc_hidden_dim": 896,
    "enc_num_layers": 2,
    "enc_ffn_dim": 3584,
    "enc_num_heads": 14,
    "enc_qkv_dim": 896,
    "enc_ca_layers": [1],
    "enc_sa_pos_bias_num_buckets": 256,
    "enc_ca_pos_bias_num_buckets": 192,
    "dec_hidden_dim": 1536,
    "dec_num_layers": 12,
    "dec_ffn_dim": 6144,
    "dec_num_heads": 12,
    "dec_qkv_dim": 1536,
    "dec_cca_layers": [5, 8, 11],
    "dec_sa_pos_bias_num_buckets": 1024,
    "dec_cca_pos_bias_num_buckets": 192,
}


def test_the_numbers_of_the_public_checkpoint_are_the_published_shape(tmp_path: Path) -> None:
    path = tmp_path / "retro.json"
    path.write_text(json.dumps(RETRO_JSON))
    assert read_shape(path) == PUBLISHED
    assert parameters(read_shape(path))["total"] == 633_142_016


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        (json.dumps({**RETRO_JSON, "dec_qkv_dim": 1024}), "dec_qkv_dim"),
        (json.dumps({**RETRO_JSON, "enc_share_decoder_embs": True}), "enc_share_decoder_embs"),
        (json.dumps({**RETRO_JSON, "pad_token_idx": 3}), "pad_token_idx"),
        (json.dumps({key: value for key, value in RETRO_JSON.items() if key != "chunk_size"}), "lack 'chunk_size'"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "retro.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_shape(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_shape(tmp_path / "absent.json")
