"""Identity of an experiment: a hash over everything that gives its numbers their meaning, and over nothing else.

Hashed: system and its version, variant, size, scale, every model, data and training key, seed, repeat, the requested layout
(engine, ranks, precision, device kind), the site's name, and the identity of each input. Not hashed: launcher, tracker, paths,
what is kept, how often a checkpoint is written, and the commit (it is recorded, and rows from other code are marked).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.store import canonical_json, sha256_text

#: Top-level keys that are part of the identity.
SEMANTIC = (
    "system",
    "variant",
    "size",
    "scale",
    "seed",
    "repeat",
    "ranks",
    "precision",
    "device",
    "engine",
    "train",
    "data",
    "model",
)
#: Nested keys that are not.
EXCLUDED = {"train": ("checkpoint_every",), "data": ("path",)}


def semantic_keys(plain: Mapping[str, Any], *, system_version: int, inputs: Sequence[str]) -> dict[str, Any]:
    """The part of a resolved configuration that is hashed.

    Args:
        plain: resolved configuration as plain containers.
        system_version: the system's ``version``.
        inputs: identities of generated stores, or fingerprints of the user's data.
    """
    keys: dict[str, Any] = {name: plain[name] for name in SEMANTIC}
    for section, names in EXCLUDED.items():
        if isinstance(keys[section], Mapping):
            keys[section] = {name: value for name, value in keys[section].items() if name not in names}
    keys["site"] = plain["site"]["name"]
    keys["system_version"] = system_version
    keys["inputs"] = sorted(inputs)
    return keys


def identity(plain: Mapping[str, Any], *, system_version: int, inputs: Sequence[str] = ()) -> str:
    """SHA-256 of the canonical JSON of :func:`semantic_keys`: independent of key order, and 1 equals 1.0."""
    return sha256_text(canonical_json(semantic_keys(plain, system_version=system_version, inputs=inputs)))


def run_name(plain: Mapping[str, Any], hash_hex: str) -> str:
    """``<system>-<variant>-<scale>-<hash8>``, the name of the run folder."""
    return f"{plain['system']}-{plain['variant']}-{plain['scale']}-{hash_hex[:8]}"
