"""Finds systems: every package under ``models`` with a ``config.py`` (a sub-package with one of its own is a further experiment
of the same work: ``dlwp_weather`` is ``models.dlwp.weather``), entry points in the group ``tenfold.systems``, and packages named
in ``TENFOLD_SYSTEMS`` (``name=package,name=package``), to try one without installing it.

``config`` is cheap (no torch) and serves composing, listing and ``--help``; ``system`` imports torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from models.catalogue import Catalogue
from results.errors import ConfigError, near_matches

if TYPE_CHECKING:
    from models.system import System


@cache
def packages() -> dict[str, str]:
    """System name to package name. In-tree packages are found by looking; others register an entry point whose value is
    the package (``aurora = "my_package.aurora"``)."""
    here = Path(__file__).parent
    found = {}
    for path in sorted([*here.glob("*/config.py"), *here.glob("*/*/config.py")]):
        parts = path.parent.relative_to(here).parts
        found["_".join(parts)] = ".".join(("models", *parts))
    for entry in importlib.metadata.entry_points(group="tenfold.systems"):
        if entry.name in found:
            raise ConfigError(f"two systems are called '{entry.name}'", where=f"entry point {entry.value}")
        found[entry.name] = entry.value
    for pair in filter(None, os.environ.get("TENFOLD_SYSTEMS", "").split(",")):
        name, sign, package = pair.partition("=")
        if not sign or name in found:
            raise ConfigError(f"'{pair}' is not a new name=package", where="environment: TENFOLD_SYSTEMS")
        found[name] = package
    return found


def names() -> list[str]:
    """All systems, by name."""
    return sorted(packages())


def _module(name: str, room: str) -> ModuleType:
    known = packages()
    if name not in known:
        raise ConfigError(f"there is no system '{name}'{near_matches(name, known)}", where="system", next_step="tenfold systems")
    return importlib.import_module(f"{known[name]}.{room}")


def config(name: str) -> ModuleType:
    """The system's ``config`` module: ``CATALOGUE``, ``Data``, ``model_preset``, ``check``.

    Raises:
        ConfigError: unknown system.
    """
    return _module(name, "config")


def catalogue(name: str) -> Catalogue:
    """The system's catalogue."""
    found: Catalogue = config(name).CATALOGUE
    return found


def system(name: str) -> System:
    """The system itself (imports torch)."""
    found: System = _module(name, "system").SYSTEM
    return found


def claims(name: str) -> ModuleType | None:
    """The system's ``claims`` module, None where it has none."""
    try:
        return _module(name, "claims")
    except ModuleNotFoundError as error:
        if error.name and error.name.endswith(".claims"):
            return None
        raise
