"""Slurm's compact texts as plain values: sizes, trackable resources, array indices, node lists.

Node lists are expanded here and not by ``scontrol show hostnames``: accounting is also read where no Slurm is configured.
"""

from __future__ import annotations

import re

_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


def size_bytes(text: str) -> int | None:
    """``12562432``, ``9216K``, ``1.5G``; None for a blank."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)([KMGTP]?)[nc]?", text.strip(), flags=re.IGNORECASE)
    return None if found is None else round(float(found[1]) * _BYTES[found[2].upper()])


def tres(text: str) -> dict[str, int]:
    """``cpu=2,mem=12052M,gres/gpu:a100=4`` by name; memory, which Slurm counts in MiB, becomes ``mem_bytes``."""
    found: dict[str, int] = {}
    for part in text.split(","):
        name, sign, amount = part.strip().rpartition("=")
        if not sign:
            continue
        if name == "mem":
            size = size_bytes(f"{amount}M" if amount.isdecimal() else amount)
            found |= {} if size is None else {"mem_bytes": size}
        elif amount.isdecimal():
            found[name] = int(amount)
    return found


def expand_indices(text: str) -> tuple[int, ...]:
    """Array indices of ``3-7%2``, ``1,4-6``, ``0-8:2``; what sacct cut off (``...``) is missing."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+)(?::([0-9]+))?)?", part.strip())
        if match:
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            found += range(first, last + 1, max(step, 1))
    return tuple(found)


def expand_nodes(text: str) -> tuple[str, ...]:
    """Host names of ``n[1-3,07],gpu[1-2]x[0-1]``; none for ``None assigned``. Leading zeros are kept."""
    if not text.strip() or text.strip() == "None assigned":
        return ()
    return tuple(name for part in re.findall(r"(?:[^,\[]|\[[^\]]*\]|\[)+", text.strip()) for name in _names(part))


def _names(text: str) -> list[str]:
    found = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", text, flags=re.DOTALL)
    if found is None:
        return [text]
    head, inside, tail = found.groups()
    return [head + number + name for part in inside.split(",") for number in _numbers(part.strip()) for name in _names(tail)]


def _numbers(part: str) -> list[str]:
    """``07-09`` -> ``07 08 09``; what is no range stands for itself."""
    match = re.fullmatch(r"([0-9]+)-([0-9]+)", part)
    if match is None:
        return [part]
    return [f"{number:0{len(match[1])}d}" for number in range(int(match[1]), int(match[2]) + 1)]
