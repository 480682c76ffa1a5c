"""From submissions to jobs: every call of sbatch is in the ledger first, so that nothing is lost and nothing submitted twice."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from launchers.slurm.commands import Slurm, UnreachableError, parse_fields
from launchers.slurm.grouping import Prepared, Wish
from launchers.slurm.ledger import ledger_folder, token_of
from launchers.slurm.script import render
from results.errors import LaunchError
from results.store import make_folder


def submit(
    prepared: Sequence[Prepared], wish: Wish, *, told: Callable[[Prepared, str], None] = lambda *_: None
) -> list[tuple[Prepared, str]]:
    """Submit what was prepared, each written into the ledger first. The ledger's lock must be held.

    A stage's jobs wait for those of ``wish.after``; on a machine that nodes share, exclusive jobs follow one another besides.

    Raises:
        LaunchError: sbatch refuses; says what was submitted before, which stays.
    """
    slurm = Slurm(wish.site.slurm_conf)
    done: list[tuple[Prepared, str]] = []
    for one in prepared:
        batch = replace(one.batch, after=wish.after)
        if wish.site.shared_machine and batch.allocation.exclusive:
            batch = replace(batch, throttle=1, after=(done[-1][1],) if done else wish.after)
        if batch != one.batch:
            one = Prepared(one.submission, batch, render(batch, wish.site))
        one.submission.write(one.script)
        try:
            job_id = _sbatch(slurm, one)
        except LaunchError as error:
            refused = not isinstance(error, UnreachableError)
            if refused:  # without an answer it may have been accepted: then the next survey finds it
                one.submission.settle(f"refused: {error.what}")
            before = ", ".join(job for _, job in done)
            look = "tenfold status, once the controller answers: the job may have been accepted all the same"
            raise LaunchError(
                error.what + (f"; submitted before: {before}" if before else ""),
                where=str(one.submission.script),
                next_step=error.next_step
                or (f"sbatch --test-only {shlex.quote(str(one.submission.script))}" if refused else look),
            ) from error
        one.submission.found(job_id)
        done.append((one, job_id))
        told(one, job_id)
    return done


def _sbatch(slurm: Slurm, one: Prepared) -> str:
    try:
        return slurm.submit(str(one.submission.script))
    except UnreachableError as silence:
        # No answer does not mean that nothing happened: look before asking again.
        for _ in range(3):
            try:
                found = find_job(slurm, one.submission.token)
            except LaunchError:
                raise silence from None
            if found is not None:
                return found
            with contextlib.suppress(UnreachableError):
                return slurm.submit(str(one.submission.script))
        raise


def find_job(slurm: Slurm, token: str) -> str | None:
    """The number of the job whose comment carries the token, in the queue or in what the controller remembers.

    Raises:
        UnreachableError: the controller does not answer.
    """
    for job in slurm.queue().values():
        if token_of(job.comment, job.command) == token:
            return job.base_id
    for line in slurm.call("scontrol", "show", "job", "--oneliner").splitlines():
        fields = parse_fields(line)
        if token_of(fields.get("Comment", ""), fields.get("Command", "")) == token:
            return fields.get("ArrayJobId") or fields["JobId"]
    return None


def open_ledger(runs: Path) -> Path:
    """Make the ledger's folder; the path of its lock.

    Raises:
        ResultError: it cannot be made.
    """
    folder = ledger_folder(runs)
    make_folder(folder, what="the ledger of submissions", next_step="paths.runs=FOLDER")
    return folder / "lock"
