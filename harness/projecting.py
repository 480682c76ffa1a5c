"""Projects finished runs into W&B. Nothing that goes wrong here can touch a run: the run folder is the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from results.errors import TenfoldError
from results.runfolder import RunFolder


def project(
    folders: Sequence[RunFolder],
    *,
    group: str | None,
    mode: str,
    say: Callable[[str], None],
    project_name: str = "tenfold",
    entity: str | None = None,
) -> int:
    """Project runs whose projection is missing or older than their record; returns how many were written.

    Args:
        group: the study's name.
        mode: the tracker: ``offline``, ``online`` or ``none``.
        say: told about problems.
    """
    if mode == "none" or not folders:
        return 0
    from results.wandb_projection import is_current, project_run

    written = 0
    for folder in folders:
        try:
            if not folder.attempts() or is_current(folder):
                continue
            project_run(folder, group=group, mode=mode, project=project_name, entity=entity)
            written += 1
        except TenfoldError as error:
            say(f"W&B: {folder.name} was not projected: {error.what}; the run itself is not affected (tenfold sync tries again)")
        except Exception as error:  # a tracker's own failure of any kind must not fail a study
            say(f"W&B: {folder.name} was not projected: {type(error).__name__}: {error} (tenfold sync tries again)")
    return written
