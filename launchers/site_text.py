"""A site profile as commented YAML: what differs from the defaults, each key with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from launchers.site import SiteProfile


def differences(value: Any, *, keep: Sequence[str] = ("name", "scheduler")) -> dict[str, Any]:
    """The fields of a dataclass that are not at their default, nested ones too; those in ``keep`` in any case."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(value):
        current = getattr(value, item.name)
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        if current == default and item.name not in keep:
            continue
        if isinstance(current, dict):
            current = {
                key: differences(inner, keep=()) if dataclasses.is_dataclass(inner) else inner for key, inner in current.items()
            }
        found[item.name] = current
    return found


def site_text(profile: SiteProfile, heading: Sequence[str], notes: Mapping[str, Sequence[str]] | None = None) -> str:
    """YAML that reads back as the profile.

    Args:
        heading: lines of comment at the top.
        notes: key -> lines of comment above it; a key that is at its default then stands there commented out.
    """
    lines = [f"# {line}".rstrip() for line in heading]
    changed = differences(profile)
    notes = notes or {}
    for item in dataclasses.fields(profile):
        lines += [f"# {line}" for line in notes.get(item.name, ())]
        if item.name in changed:
            lines += yaml.safe_dump({item.name: changed[item.name]}, sort_keys=False, allow_unicode=True, width=1000).splitlines()
        elif item.name in notes:
            shown = yaml.safe_dump({item.name: getattr(profile, item.name)}, width=1000).strip()
            lines.append(f"# {shown}")
    return "\n".join(lines) + "\n"
