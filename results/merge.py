"""Makes the record from the files of a run folder. Anyone may call it at any time: same files, same record."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from typing import Any

import yaml

from results.attempts import accounting_of, attempt_row, lost_work
from results.errors import ResultError
from results.failures import NEXT_STEP, Failure, FailureClass
from results.metrics import COMMON
from results.placement import placement_of
from results.record import Metric, Record, Status
from results.runfolder import Attempt, RunFolder
from results.store import canonical_json, locked, read_json_or, sha256_text, write_json

GIB = 2**30
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_config(folder: RunFolder) -> dict[str, Any]:
    """The frozen configuration as plain containers.

    Raises:
        ResultError: it is missing or not YAML.
    """
    try:
        with folder.config_file.open() as stream:
            plain = yaml.load(stream, Loader=_LOADER)
    except (OSError, yaml.YAMLError) as error:
        raise ResultError(f"config.yaml cannot be read: {error}", where=str(folder.path)) from error
    if not isinstance(plain, dict):
        raise ResultError("config.yaml is not a mapping", where=str(folder.path))
    return plain


def build_record(folder: RunFolder) -> Record:
    """Assemble the record.

    Raises:
        ResultError: the frozen configuration is missing or damaged.
    """
    config = read_config(folder)
    identity = read_json_or(folder.path / "run.json", {})
    attempts = folder.attempts()
    done = next((attempt for attempt in reversed(attempts) if attempt.completed), None)
    last = attempts[-1] if attempts else None
    failure = last.failure() if last and done is None else None
    if done is not None:
        status = Status.COMPLETED
    elif failure is not None:
        status = Status.FAILED
    elif last is None:
        status = Status.PENDING
    elif folder.is_running():
        status = Status.RUNNING
    else:  # nobody holds the run, and its launcher was killed before it could say why it ended
        status = Status.FAILED
        failure = _unsaid(last).as_dict()
    plan = read_json_or(folder.plan_file, {})
    rows = [attempt_row(attempt) for attempt in attempts]
    micro_batch = (config.get("train") or {}).get("micro_batch")
    requested = (config["engine"]["name"], config["ranks"], micro_batch)
    same_layout = all(
        (row["engine"], row["ranks"], row.get("micro_batch", micro_batch)) == requested for row in rows if "engine" in row
    )
    known_company = all(
        (attempt.path / "launch.json").exists() for attempt in attempts if (attempt.path / "attempt.json").exists()
    )
    chosen = done or last
    record = Record(
        run=folder.name,
        identity=identity.get("identity", ""),
        status=status,
        system=config["system"],
        variant=config["variant"],
        size=str(config["size"]),
        scale=config["scale"],
        seed=config["seed"],
        repeat=config["repeat"],
        engine=config["engine"]["name"],
        ranks=config["ranks"],
        site=config["site"]["name"],
        data=identity.get("data", "generated"),
        system_version=identity.get("system_version", 0),
        timing_valid=same_layout and known_company,
        protocol=_hash(config, "train", "data", "precision"),
        recipe=_hash(config, "train", "data", "precision", "model", "device"),
        shared_with=max((int(row.get("shared_with", 0)) for row in rows), default=0),
        plan=plan,
        attempts=rows,
        accounting=accounting_of(rows),
        failure=failure,
        provenance={} if chosen is None else chosen.read("env", {}),
        wandb=read_json_or(folder.path / "wandb.json", {}),
    )
    if chosen is not None:
        record.placement = placement_of(config, chosen.read("attempt", {}), record.provenance, _ranks(chosen))
        _measure(record, attempts, chosen, (config.get("train") or {}).get("timing_warmup_steps", 0))
    return record


def _unsaid(attempt: Attempt) -> Failure:
    """The failure of an attempt that nobody has recorded one for: it was asked to leave, or machine or launcher were killed."""
    asked = {**attempt.read("leave", {}), **attempt.read("stop", {})}
    kind = FailureClass(asked.get("class", FailureClass.CANCELLED)) if asked else FailureClass.NODE_FAIL
    reason = asked.get("reason") or "the attempt ended without a word: the machine or its launcher was killed"
    return Failure(kind=kind, reason=reason, step=asked.get("step"), next_step=NEXT_STEP[kind])


def _hash(config: Mapping[str, Any], *names: str) -> str:
    """Short hash of sections of a configuration, without what does not change a result's meaning."""
    left_out = {"train": ("checkpoint_every", "micro_batch"), "data": ("path",)}
    chosen = {}
    for name in names:
        section = config.get(name)
        if isinstance(section, Mapping):
            section = {key: value for key, value in section.items() if key not in left_out.get(name, ())}
        chosen[name] = section
    return sha256_text(canonical_json(chosen))[:8]


def _ranks(attempt: Attempt) -> list[dict[str, Any]]:
    return [plain for path in attempt.rank_files() if (plain := read_json_or(path, None))]


def _measure(record: Record, attempts: list[Attempt], chosen: Attempt, warmup: int) -> None:
    """Fill in metrics and phases from the ranks' files of the attempt that counts; peaks are over all attempts."""
    metrics: dict[str, Metric] = {}

    def put(name: str, value: float | None, reason: str = "") -> None:
        spec = COMMON[name]
        metrics[name] = Metric(
            value=value, unit=spec.unit, direction=str(spec.direction), reason="" if value is not None else reason
        )

    outcome = chosen.read("outcome", {})
    for name, plain in outcome.get("metrics", {}).items():
        value = plain["value"]
        metrics[name] = Metric(
            value=value, unit=plain["unit"], direction=plain["direction"], reason="" if value is not None else "not finite"
        )
    ranks = _ranks(chosen)
    if not ranks:
        record.metrics = metrics
        return
    timed_attempt = next((a for a in reversed(attempts) if any(r.get("steps_s") for r in _ranks(a))), chosen)
    timed = [rank["steps_s"] for rank in _ranks(timed_attempt) if rank.get("steps_s")] or _times_of_lines(attempts, warmup)
    plan = record.plan
    done = max((rank.get("steps_done") or 0 for rank in ranks), default=0) or (
        plan.get("steps") if record.status == "completed" else 0
    )
    if done:
        put("steps", done)
    params = max((rank.get("params") or 0 for rank in ranks), default=0)
    put("params", params or None, "the system does not tell")
    slowest = max(timed, key=lambda row: row["step_s"], default=None)
    if slowest is None:  # no training steps, or a run cut off and resumed so late that its rest was warm-up
        for name in ("step_s", "step_s_p5", "step_s_p95"):
            put(name, None, "no step of this run was timed")
    else:
        for name in ("step_s", "step_s_p5", "step_s_p95"):
            put(name, slowest[name])
        put("step_skew", slowest["step_s"] / min(row["step_s"] for row in timed))
        if plan.get("global_batch"):
            put("samples_per_s", plan["global_batch"] / slowest["step_s"])
        flops, peak = plan.get("flops_per_step"), plan.get("peak_flops_per_rank")
        if flops:
            put("flops_per_step", flops)
        if flops and peak and not record.shared_with:
            share = flops / (slowest["step_s"] * peak * record.ranks)
            put(
                "mfu",
                share if share <= 1 else None,
                f"{share:.2f} is impossible: the measured peak of a rank does not fit this run",
            )
        else:
            put("mfu", None, "another run shared the machine" if flops and peak else "the device's peak is not known")
        if plan.get("step_s"):
            put("plan_step_ratio", plan["step_s"] / slowest["step_s"])
    peaks = [rank["memory"] for attempt in attempts for rank in _ranks(attempt)]
    highest = max(row["peak_gib"] for row in peaks)
    put("peak_gib", highest)
    put("peak_gib_min", min(rank["memory"]["peak_gib"] for rank in ranks))
    put("host_peak_gib", max(row["host_peak_gib"] for row in peaks))
    for name in ("device_peak_gib", "device_reserved_gib"):
        if any(name in row for row in peaks):
            put(name, max(row.get(name, 0.0) for row in peaks))
    _hold_memory_plan(put, plan, highest)
    first = ranks[0]
    record.phases_s = {name: max(rank["phases_s"].get(name, 0.0) for rank in ranks) for name in first["phases_s"]}
    for name, seconds in record.phases_s.items():
        if f"{name}_s" in COMMON:
            put(f"{name}_s", seconds)
    put("total_s", max(rank["total_s"] for rank in ranks))
    loop_s = sum(record.phases_s.get(name, 0.0) for name in ("train", "communicate", "data_wait"))
    if loop_s > 0:
        put("data_wait_share", record.phases_s["data_wait"] / loop_s)
        known = all(rank.get("communicate_known", True) for rank in ranks)
        share = max(_communicate_share(rank["phases_s"]) for rank in ranks)
        put("communicate_share", share if known else None, "NCCL only enqueues: not measured in timed steps")
    lost = lost_work(attempts)
    if lost is not None:
        put("lost_steps", lost[0])
        put("lost_s", lost[1])
    if record.accounting:
        put("queue_wait_s", record.accounting["queue_wait_s"], record.accounting["unknown"] or "the accounting has not told yet")
    energy = first.get("energy_j")
    if energy is not None and record.shared_with:
        put("energy_j", None, "another run shared the machine")
    else:
        put("energy_j", energy, first.get("energy_reason", "unknown"))
    record.metrics = metrics


def _communicate_share(phases_s: Mapping[str, float]) -> float:
    """Time in collectives over the time of the training loop, of one rank: the rank that waits longest is not the busiest one,
    so the largest share is not a ratio of largest times."""
    loop_s = sum(phases_s.get(name, 0.0) for name in ("train", "communicate", "data_wait"))
    return phases_s.get("communicate", 0.0) / loop_s if loop_s > 0 else 0.0


def _times_of_lines(attempts: list[Attempt], warmup: int) -> list[dict[str, float]]:
    """Step times of the last attempt that has any, from its per-step lines: for attempts that ended before they could sum up."""
    for attempt in reversed(attempts):
        found = []
        for path in sorted((attempt.path / "steps").glob("*.jsonl")):
            times = []
            for line in path.read_text().splitlines()[warmup:]:
                try:
                    times.append(float(json.loads(line)["step_s"]))
                except (ValueError, KeyError, TypeError):
                    break
            if times:
                found.append(
                    {"step_s": statistics.median(times), "step_s_p5": _share(times, 0.05), "step_s_p95": _share(times, 0.95)}
                )
        if found:
            return found
    return []


def _share(values: list[float], share: float) -> float:
    """Percentile by linear interpolation."""
    ordered, place = sorted(values), share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _hold_memory_plan(put: Any, plan: Mapping[str, Any], measured_gib: float) -> None:
    planned, base = plan.get("bytes_per_rank"), plan.get("base_bytes") or 0
    if not planned:
        put("plan_peak_ratio", None, "this run was not planned")
        return
    if not measured_gib:  # a GPU's peak, of a rank that failed before it held anything there
        put("plan_peak_ratio", None, "nothing was allocated")
        return
    put("plan_peak_ratio", planned / (measured_gib * GIB))
    above = measured_gib * GIB - base
    if base and above > 0:
        put("plan_above_base_ratio", (planned - base) / above)
    else:
        put("plan_above_base_ratio", None, "the measured peak does not exceed the base")


def write_record(folder: RunFolder) -> Record:
    """Build the record and write ``record.json`` atomically; one writer at a time, so that a newer one is never overwritten."""
    with locked(folder.path / ".record.lock", what=f"the record of {folder.name}"):
        record = build_record(folder)
        write_json(folder.record_file, record.as_dict())
    return record
