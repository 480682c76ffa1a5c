"""Channels that the generated atmosphere has, known without torch: a configuration is refused before anything is built."""

from __future__ import annotations

from results.errors import ConfigError, near_matches

#: Pressure of its levels, top first, hPa.
LEVELS_HPA = (200, 500, 800)
CONSTANTS = ("orography", "lsm", "lat2d", "lon2d")
#: Those of the paper; what is given when less is not asked for.
CHANNELS = ("tisr", "t850", "t2m", "u10", "v10", "z300", "z500", "z700", "z1000")
#: All: further, z, u and v on its own levels.
SUPPLIED = tuple(dict.fromkeys((*CHANNELS, *(f"{quantity}{level}" for quantity in "zuv" for level in LEVELS_HPA))))


def not_supplied(name: str, *, where: str) -> ConfigError:
    """The error for another channel."""
    known = (*CONSTANTS, *SUPPLIED)
    return ConfigError(
        f"the generated atmosphere has no channel '{name}'{near_matches(name, known)}",
        where=where,
        next_step=f"choose from {', '.join(sorted(known))}, or read your own data: data.source=path",
    )
