"""Weights of the public RETRO checkpoint (TobiasNorlund/retro, which PipeRAG serves), from a user's own file.

The layout is read off the public code: a Lightning checkpoint, or a plain dictionary of tensors, with names such as
``base.decoder.5.1.kv_proj.weight``, and ``retro.json`` with the numbers. No real checkpoint was at hand: the tests hold the
layout with a synthetic one.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.piperag.retro.network import Retro
from models.piperag.retro.shape import RetroShape, Stack
from models.piperag.types import PAD
from results.errors import DataError, near_matches

#: Names of an error message; the rest is counted.
NAMED = 4

_SELF = {
    "attention.norm.scale": "0.ln.scale",
    "attention.qkv.weight": "0.qkv_proj.weight",
    "attention.out.weight": "0.multi_head_attention.final_proj.weight",
    "attention.position.table": "0.multi_head_attention.positional_bias.relative_attention_bias.weight",
}
_CROSS = {
    "cross.norm.scale": "1.ln.scale",
    "cross.query.weight": "1.q_proj.weight",
    "cross.key_value.weight": "1.kv_proj.weight",
    "cross.out.weight": "1.multi_head_attention.final_proj.weight",
    "cross.position.table": "1.multi_head_attention.positional_bias.relative_attention_bias.weight",
}
_FEED_FORWARD = {
    "feed_forward.norm.scale": "2.layer_norm.scale",
    "feed_forward.out.weight": "2.wo.weight",
}
#: Two matrices of the layout that are one here.
_WIDE = "feed_forward.wide.weight", ("2.wi_0.weight", "2.wi_1.weight")


def published_names(shape: RetroShape) -> dict[str, tuple[str, ...]]:
    """For every parameter of :class:`Retro` the tensors of the public layout that, put below one another, make it."""
    names: dict[str, tuple[str, ...]] = {
        "embedding.weight": ("base.dec_embs.weight",),
        "norm.scale": ("base.final_layer_norm.scale",),
    }
    if not shape.tied_head:
        names["head.weight"] = ("lm_head.weight",)
    names |= _layer_names(shape.decoder, "layers", "base.decoder")
    if shape.decoder.cross_layers:
        names["encoder.embedding.weight"] = ("base.encoder.enc_embs.weight",)
        names |= _layer_names(shape.encoder, "encoder.layers", "base.encoder.layers")
    return names


def _layer_names(stack: Stack, ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for index in range(stack.layers):
        here, there = f"{ours}.{index}.", f"{theirs}.{index}."
        for name, source in (_SELF | _FEED_FORWARD | (_CROSS if index in stack.cross_layers else {})).items():
            names[here + name] = (there + source,)
        names[here + _WIDE[0]] = tuple(there + source for source in _WIDE[1])
    return names


def load_published(model: Retro, path: Path) -> None:
    """Give a network the weights of a checkpoint of the public layout.

    Args:
        model: of the checkpoint's shape; one on the meta device takes the tensors as they are.
        path: a file that ``torch.save`` wrote. Only tensors and plain values are read, no code is run.

    Raises:
        DataError: the file cannot be read; a tensor is missing, unexpected or wrongly shaped; a head that is to be tied differs
            from the embedding.
    """
    found = dict(_tensors(path))
    names = published_names(model.shape)
    if model.shape.tied_head and "lm_head.weight" in found:
        head, embedding = found.pop("lm_head.weight"), found.get("base.dec_embs.weight")
        if embedding is not None and not torch.equal(head, embedding):
            raise DataError(
                "the head differs from the embedding", where=f"{path}: lm_head.weight", next_step="set model.tied_head=false"
            )
    wanted = [source for sources in names.values() for source in sources]
    _complain("lacks", [name for name in wanted if name not in found], path, found)
    _complain("has unexpected", [name for name in found if name not in set(wanted)], path, wanted)
    own = dict(model.named_parameters())
    weights = {}
    for name, sources in names.items():
        parts = [found[source] for source in sources]
        shape = (own[name].shape[0] // len(parts), *own[name].shape[1:])
        for source, part in zip(sources, parts, strict=True):
            if part.shape != shape:
                raise DataError(
                    f"tensor '{source}' has shape {list(part.shape)}, and the network's numbers ask for {list(shape)}",
                    where=str(path),
                    next_step="take the numbers from the checkpoint's retro.json",
                )
        weights[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    on_meta = own["embedding.weight"].is_meta
    model.load_state_dict({name: weight.to(own[name].dtype) for name, weight in weights.items()}, assign=on_meta)


def _tensors(path: Path) -> Mapping[str, Tensor]:
    """Every tensor of the file by name."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError("there is no checkpoint", where=str(path)) from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError) as error:
        raise DataError(
            f"the checkpoint cannot be read: {(str(error) or 'it ends too early').splitlines()[0]}",
            where=str(path),
            next_step="save the tensors alone: torch.save(checkpoint['state_dict'], path)",
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError("the file holds no dictionary of tensors", where=str(path), next_step="save the model's state_dict")
    return content


def _complain(verb: str, names: list[str], path: Path, known: Iterable[str]) -> None:
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        near = near_matches(names[0], known) if len(names) == 1 else ""
        raise DataError(
            f"the checkpoint {verb} {', '.join(names[:NAMED])}{more}{near}",
            where=str(path),
            next_step="take the numbers of layers from the checkpoint's retro.json",
        )


#: Numbers of ``retro.json`` and where they belong.
_STACK_KEYS = {
    "layers": "num_layers",
    "width": "hidden_dim",
    "ffn": "ffn_dim",
    "heads": "num_heads",
    "self_buckets": "sa_pos_bias_num_buckets",
}


def read_shape(path: Path) -> RetroShape:
    """The numbers in a ``retro.json``.

    Raises:
        DataError: no such file, a key that is missing, or a form that this network does not have.
    """
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        shape = RetroShape(
            vocabulary=raw["num_embeddings"],
            chunk_tokens=raw["chunk_size"],
            encoder=_stack(raw, "enc", "ca"),
            decoder=_stack(raw, "dec", "cca"),
            dropout=raw["dropout_p"],
        )
    except (OSError, ValueError) as error:
        raise DataError(f"the numbers of the checkpoint cannot be read: {error}", where=str(path)) from error
    except KeyError as error:
        raise DataError(f"the numbers of the checkpoint lack {error}", where=str(path)) from None
    odd = [f"{side}_qkv_dim" for side in ("enc", "dec") if raw.get(f"{side}_qkv_dim") != raw[f"{side}_hidden_dim"]]
    odd += ["enc_share_decoder_embs"] * bool(raw.get("enc_share_decoder_embs"))
    odd += ["pad_token_idx"] * (raw.get("pad_token_idx", PAD) != PAD)
    if odd:
        raise DataError(f"the checkpoint has a form that is not supported: {', '.join(odd)}", where=str(path))
    return shape


def _stack(raw: Mapping[str, Any], side: str, cross: str) -> Stack:
    numbers = {key: raw[f"{side}_{name}"] for key, name in _STACK_KEYS.items()}
    return Stack(
        **numbers, cross_layers=list(raw[f"{side}_{cross}_layers"]), cross_buckets=raw[f"{side}_{cross}_pos_bias_num_buckets"]
    )
