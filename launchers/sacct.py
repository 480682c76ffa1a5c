"""What ``sacct`` prints, as values: jobs, their steps, and the several lives of a requeued job.

The text is that of ``--parsable2 --noconvert --duplicates`` with a header line, so a field that an old or a new Slurm does not
have is simply absent. What a site does not record is None: blank memory, an energy of 0 or beyond what a node can draw.
Recorded with Slurm 22.05.8; fields as in the manual page of sacct.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from launchers.sacct_text import expand_indices, expand_nodes, size_bytes, tres

#: Between fields: names and comments hold any printable character.
DELIMITER = "\x1f"
#: Asked for, in this order, as far as the site's sacct knows them.
FIELDS = (
    "JobID", "JobIDRaw", "JobName", "Partition", "Account", "QOS", "State", "ExitCode", "DerivedExitCode", "Reason", "Submit",
    "Eligible", "Start", "End", "ElapsedRaw", "TimelimitRaw", "AllocTRES", "ReqTRES", "NNodes", "NTasks", "NodeList", "MaxRSS",
    "MaxRSSNode", "MaxRSSTask", "AveRSS", "ConsumedEnergyRaw", "Restarts", "Comment",
)  # fmt: skip
#: More than a node can draw on average: a counter that overflowed, or that nobody reads.
ABSURD_WATT_PER_NODE = 100_000.0

_ID = re.compile(r"(?P<base>\d+)(?:_(?:(?P<index>\d+)|\[(?P<range>[^\]]*)\])|\+(?P<het>\d+))?(?:\.(?P<step>.+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobId:
    """A job's number as Slurm writes it: ``12``, ``12_3``, ``12_[3-7%2]`` (tasks of an array that have not started), ``12+0``.

    Attributes:
        base: the number of the job, of the array, or of the first component of a heterogeneous job.
        index: the array task.
        pending: the array tasks that one line stands for.
        het: the component.
        step: ``batch``, ``extern``, ``0`` ...; empty for the job itself.
    """

    base: int
    index: int | None = None
    pending: tuple[int, ...] = ()
    het: int | None = None
    step: str = ""

    @classmethod
    def parse(cls, text: str) -> JobId | None:
        """Read one; None for what is no job number."""
        found = _ID.fullmatch(text.strip())
        if found is None:
            return None
        index, het = found["index"], found["het"]
        return cls(
            base=int(found["base"]),
            index=None if index is None else int(index),
            pending=() if found["range"] is None else expand_indices(found["range"]),
            het=None if het is None else int(het),
            step=found["step"] or "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAccount:
    """One step: ``batch`` is the script, ``0, 1, ...`` what srun started."""

    step: str
    state: str
    exit_code: int | None
    signal: int | None
    started: datetime | None
    ended: datetime | None
    max_rss_bytes: int | None  # of the task that held most
    max_rss_node: str
    max_rss_task: int | None
    ave_rss_bytes: int | None
    ntasks: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAccount:
    """One life of a job: a requeued job has several, oldest first.

    Attributes:
        job_id: as Slurm writes it.
        raw_id: the number of this task or component alone (``SLURM_JOB_ID`` inside it).
        state: one word, ``CANCELLED`` without its "by".
        cancelled_by: who cancelled, a user's number or name; empty where nobody did.
        exit_code, signal: of the script; Slurm writes them ``code:signal``. None: killed by no signal.
        timelimit_s: None without a limit of the job's own.
        alloc_tres, req_tres: trackable resources; memory as ``mem_bytes``.
        energy_j: None where the site does not measure it.
        restarts: how often it had been requeued before this life.
    """

    job_id: str
    id: JobId
    raw_id: int | None
    name: str
    partition: str
    account: str
    qos: str
    state: str
    cancelled_by: str
    exit_code: int | None
    signal: int | None
    derived_exit_code: int | None
    reason: str
    submitted: datetime | None
    eligible: datetime | None
    started: datetime | None
    ended: datetime | None
    elapsed_s: float | None
    timelimit_s: float | None
    alloc_tres: Mapping[str, int]
    req_tres: Mapping[str, int]
    nodes: int | None
    node_list: tuple[str, ...]
    energy_j: float | None
    restarts: int
    comment: str
    steps: tuple[StepAccount, ...] = field(default=())

    @property
    def queue_wait_s(self) -> float | None:
        """From when it could have started (submission, where that is unknown) to its start; None while it waits."""
        since = self.eligible or self.submitted
        return None if self.started is None or since is None else max((self.started - since).total_seconds(), 0.0)

    @property
    def max_rss_bytes(self) -> int | None:
        """The largest resident size of a task of any step; None where nothing was sampled (also while it runs)."""
        return max((step.max_rss_bytes for step in self.steps if step.max_rss_bytes is not None), default=None)

    def as_dict(self) -> dict[str, Any]:
        """Plain form for the record: times in ISO 8601, with ``queue_wait_s`` and ``max_rss_bytes``."""
        plain = asdict(self) | {"queue_wait_s": self.queue_wait_s, "max_rss_bytes": self.max_rss_bytes}
        del plain["id"]
        plain["node_list"] = list(self.node_list)
        for part in (plain, *plain["steps"]):
            part |= {key: item.isoformat() for key, item in part.items() if isinstance(item, datetime)}
        plain["steps"] = list(plain["steps"])
        return plain


def parse(text: str, *, delimiter: str = DELIMITER) -> list[JobAccount]:
    """Read sacct's output, header first; a line that is no job and no step is left aside.

    A step belongs to the last life of its job above it. ``restarts`` is the site's own number where it has one, else the
    number of lives above: ``--duplicates`` must have been asked for.
    """
    lives: dict[str, list[tuple[dict[str, str], list[StepAccount]]]] = {}
    order: list[tuple[str, int]] = []
    for row in _rows(text, delimiter):
        identity = JobId.parse(row.get("JobID", ""))
        if identity is None:
            continue
        job, _, _ = row["JobID"].strip().partition(".")
        if not identity.step:
            lives.setdefault(job, []).append((row, []))
            order.append((job, len(lives[job]) - 1))
        elif job in lives:
            lives[job][-1][1].append(_step(identity.step, row))
    return [_job(job, *lives[job][number], restarts=number) for job, number in order]


def _rows(text: str, delimiter: str) -> Iterator[dict[str, str]]:
    """Fields by name. A line break inside a name or comment ends a line too early: the next ones belong to it."""
    lines = iter(text.split("\n"))  # and not at whatever else Unicode calls the end of a line
    header = next(lines, "").split(delimiter)
    held = ""
    for line in lines:
        fields = line.split(delimiter)
        if held and len(fields) == len(header):  # whole by itself: what is held was cut off
            held = ""
        joined = f"{held}\n{line}" if held else line
        fields = joined.split(delimiter)
        held = joined if len(fields) < len(header) else ""
        if len(fields) == len(header):
            yield dict(zip(header, fields, strict=True))


def _job(job: str, row: dict[str, str], steps: list[StepAccount], *, restarts: int) -> JobAccount:
    identity = JobId.parse(job)
    assert identity is not None, "read before"
    state, cancelled_by = _state(row.get("State", ""))
    exit_code, signal = _exit(row.get("ExitCode", ""))
    elapsed_s, nodes = _integer(row.get("ElapsedRaw", "")), _integer(row.get("NNodes", ""))
    limit = _integer(row.get("TimelimitRaw", ""))
    told = _integer(row.get("Restarts", ""))
    return JobAccount(
        job_id=job,
        id=identity,
        raw_id=_integer(row.get("JobIDRaw", "")),
        name=row.get("JobName", ""),
        partition=row.get("Partition", ""),
        account=row.get("Account", ""),
        qos=row.get("QOS", ""),
        state=state,
        cancelled_by=cancelled_by,
        exit_code=exit_code,
        signal=signal,
        derived_exit_code=_exit(row.get("DerivedExitCode", ""))[0],
        reason="" if row.get("Reason") == "None" else row.get("Reason", ""),
        submitted=_time(row.get("Submit", "")),
        eligible=_time(row.get("Eligible", "")),
        started=_time(row.get("Start", "")),
        ended=_time(row.get("End", "")),
        elapsed_s=None if elapsed_s is None else float(elapsed_s),
        timelimit_s=None if limit is None else 60.0 * limit,
        alloc_tres=tres(row.get("AllocTRES", "")),
        req_tres=tres(row.get("ReqTRES", "")),
        nodes=nodes,
        node_list=expand_nodes(row.get("NodeList", "")),
        energy_j=_energy(row.get("ConsumedEnergyRaw", ""), elapsed_s, nodes),
        restarts=restarts if told is None else told,
        comment=row.get("Comment", ""),
        steps=tuple(steps),
    )


def _step(name: str, row: dict[str, str]) -> StepAccount:
    exit_code, signal = _exit(row.get("ExitCode", ""))
    return StepAccount(
        step=name,
        state=_state(row.get("State", ""))[0],
        exit_code=exit_code,
        signal=signal,
        started=_time(row.get("Start", "")),
        ended=_time(row.get("End", "")),
        max_rss_bytes=size_bytes(row.get("MaxRSS", "")),
        max_rss_node=row.get("MaxRSSNode", ""),
        max_rss_task=_integer(row.get("MaxRSSTask", "")),
        ave_rss_bytes=size_bytes(row.get("AveRSS", "")),
        ntasks=_integer(row.get("NTasks", "")),
    )


def _state(text: str) -> tuple[str, str]:
    """``CANCELLED by 1000`` -> ``CANCELLED``, ``1000``; sacct marks a cut-off word with ``+``."""
    word, _, by = text.strip().partition(" by ")
    return word.split(" ")[0].rstrip("+").upper(), by.strip()


def _exit(text: str) -> tuple[int | None, int | None]:
    code, sign, signal = text.partition(":")
    return _integer(code), _integer(signal) or None if sign else None


def _integer(text: str) -> int | None:
    text = text.strip()  # int() does not take all that strip() takes away
    return int(text) if text.isdecimal() else None


def _time(text: str) -> datetime | None:
    """Seconds since 1970 (``SLURM_TIME_FORMAT=%s``), or Slurm's ISO text in the local zone of this machine."""
    text = text.strip()
    try:
        if text.isdecimal():
            return datetime.fromtimestamp(int(text), UTC) if int(text) else None
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError):  # Unknown, None, INVALID
        return None


def _energy(text: str, elapsed_s: int | None, nodes: int | None) -> float | None:
    joules = _integer(text)
    if not joules or joules > ABSURD_WATT_PER_NODE * max(elapsed_s or 1, 1) * max(nodes or 1, 1):
        return None
    return float(joules)
