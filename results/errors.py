"""The one exception tree of the project.

Every error a user can meet says three things: what is wrong, where (file and key, or run), and which command to type next.
The exit codes below are part of the command line's public interface (``docs/cli.md``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_RUN_FAILED = 1
EXIT_USAGE = 2
EXIT_BUSY = 75  # EX_TEMPFAIL of sysexits.h: somebody else holds the run
EXIT_INTERRUPTED = 130


class TenfoldError(Exception):
    """Base of all errors that are shown to a user without a traceback.

    Args:
        what: what is wrong, in one sentence.
        where: the file and key, or the run, it was found in.
        next_step: the command to type, or the change to make.
    """

    exit_code = EXIT_USAGE

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.next_step = next_step

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.next_step:
            lines.append(f"  next:  {self.next_step}")
        return "\n".join(lines)


class ConfigError(TenfoldError):
    """A key, a value or a combination in a configuration is wrong."""


class PlanError(TenfoldError):
    """A run cannot be planned, or its plan says that it cannot run."""


class DataError(TenfoldError):
    """A data store is missing, incomplete, damaged, or not what its reader expects."""


class LaunchError(TenfoldError):
    """Runs cannot be started or reached."""

    exit_code = EXIT_RUN_FAILED


class BusyError(LaunchError):
    """Another process holds the lock on this run or store."""

    exit_code = EXIT_BUSY


class RunError(TenfoldError):
    """A run ended without completing."""

    exit_code = EXIT_RUN_FAILED


class DivergedError(RunError):
    """The loss left the finite numbers."""


class ResultError(TenfoldError):
    """A result is missing, damaged, or cannot be written."""

    exit_code = EXIT_RUN_FAILED


def near_matches(wrong: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known names, else the list of them."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "; known: " + ", ".join(names) if names else ""
