"""Texts of ``scontrol show`` and of generic resources as plain values."""

from __future__ import annotations

import re
from dataclasses import dataclass

_KEY = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z0-9_/:]*(?:\[\d+\])?)=")


def records(text: str) -> list[dict[str, str]]:
    """``scontrol --oneliner show ...``: one record a line, ``Key=value`` pairs between blanks; values may hold blanks and ``=``.
    Of a key that occurs again (inside a reason, say) the first stays."""
    return [found for line in text.splitlines() if (found := _pairs(line))]


def _pairs(line: str) -> dict[str, str]:
    marks = list(_KEY.finditer(line))
    ends = [mark.start() for mark in marks[1:]] + [len(line)]
    found: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=True):
        found.setdefault(mark[1], line[mark.end() : end].strip())
    return found


def config(text: str) -> dict[str, str]:
    """``scontrol show config``: ``Key   = value`` lines."""
    found = {}
    for line in text.splitlines():
        key, sign, value = line.partition("=")
        if sign and key.strip() and " " not in key.strip():
            found[key.strip()] = value.strip()
    return found


def known(text: str | None) -> str | None:
    """A value, None where Slurm says that there is none."""
    plain = (text or "").strip()
    return None if plain.lower() in ("", "(null)", "none", "n/a", "unlimited", "infinite", "not_set", "4294967294") else plain


def number(text: str | None) -> int | None:
    """A whole number, None where Slurm says that there is none or no limit."""
    plain = known(text)
    return int(plain) if plain is not None and plain.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs of one node.

    Attributes:
        count: all of them.
        types: type as the site spells it -> how many; without those whose type is not named.
    """

    count: int
    types: tuple[tuple[str, int], ...] = ()

    @property
    def main_type(self) -> str | None:
        """The type that the node has most of."""
        return max(self.types, key=lambda kind: kind[1])[0] if self.types else None


def gpus(gres: str | None) -> Gpus:
    """``gpu:a100:4(S:0-1),nic:2``: the GPUs among a node's generic resources. Brackets (sockets, indices) are dropped."""
    count = 0
    types: dict[str, int] = {}
    for part in re.sub(r"\([^)]*\)", "", known(gres) or "").split(","):
        kind, *rest = part.strip().removeprefix("gres/").split(":")
        if kind != "gpu":
            continue
        amount = int(rest.pop()) if rest and rest[-1].isdecimal() else 1
        count += amount
        name = next((word for word in rest if word != "no_consume"), None)
        if name:
            types[name] = types.get(name, 0) + amount
    return Gpus(count, tuple(types.items()))
