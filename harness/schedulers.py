"""What schedulers say of runs that are not over: asked only where something was submitted and has not been settled."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from results.standing import Words

if TYPE_CHECKING:
    from launchers.slurm.survey import Survey


def survey_of(runs: Path) -> Survey | None:
    """The survey of what was submitted from ``runs``; None where nothing was, and nothing is imported then."""
    if not (runs / ".submissions").is_dir():
        return None
    from launchers.slurm.survey import survey

    return survey(runs)


def scheduler_words(runs: Path) -> Words:
    """The schedulers' words by run name; what could not be found out is said on the error stream."""
    found = survey_of(runs)
    if found is None:
        return {}
    for problem in found.problems:
        print(f"tenfold: {problem}", file=sys.stderr)
    return found.words
