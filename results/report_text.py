"""The sentences of a report: what was run, on which data, when, on what, for how long; and the glossary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from results.tables import number

GLOSSARY = (
    ("variant, size", "a model of the system, and its budget of parameters"),
    ("seed, repeat", "seeds repeat a training to see the spread of accuracy; repeats measure time and memory again"),
    ("engine", "how a step is executed: torch is a single process, zero0 to zero3 are DeepSpeed's sharding stages"),
    ("rank", "one of the processes that train together"),
    ("skill", "error divided by that of persistence (repeat the last frame): below 1 is better than doing nothing"),
    ("peak", "largest memory a rank ever held, the largest over ranks; on a CPU the whole process (VmHWM)"),
    ("step", "seconds of one optimisation step, median over the steps after the warm-up; p5-p95 is the range of nine in ten"),
    ("plan/peak", "predicted divided by measured peak memory"),
    ("tries, shared", "attempts that a run took; other runs on the machine at the same time"),
    ("95 % interval", "range that covers the effect in 95 of 100 such studies; over seeds and test samples"),
    (
        "saturates, scales",
        "whether error stops falling as parameters grow: decided on a power law with offset and the last slope",
    ),
    ("last slope", "slope of log error against log parameters over the last three sizes"),
    ("Nsat", "smallest number of parameters from which doubling gains less than 2 %, by the fitted curve"),
)


def lede(index: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], analysis: Mapping[str, Any]) -> str:
    """The opening paragraph."""
    counts = analysis["counts"]
    variants = {row["variant"] for row in rows}
    sizes = {row["size"] for row in rows}
    seeds = {row["seed"] for row in rows}
    parts = [index.get("description", "").strip()]
    runs = _count(counts["runs"], "run")
    system = index.get("system_title") or index["system"]
    parts.append(
        f"The study made {runs} of {system} at scale {index['scale']}: {_count(len(variants), 'variant')}, "
        f"{_count(len(sizes), 'size')}, up to {_count(len(seeds), 'seed')}."
    )
    rest = [f"{counts[word]} {word}" for word in ("failed", "damaged", "running", "pending", "planned") if counts.get(word)]
    parts.append("All completed." if not rest else f"{counts['completed']} completed; {' and '.join(rest)}.")
    when = moment(analysis["span"]["started"])
    took = analysis["span"]["wall_s"]
    if when:
        parts.append(f"It ran on {when}" + (f" and took {duration(took)}." if took else "."))
    machines = sorted({entry["environment"].get("host", "") for entry in analysis["hardware"]})
    if machines:
        first = analysis["hardware"][0]["environment"]
        parts.append(f"Hardware: {machine(first)}" + (f" and {len(machines) - 1} more." if len(machines) > 1 else "."))
    return " ".join(part for part in parts if part)


def data_note(data: Sequence[str], scale: str) -> str:
    """What the reader must know of the data before any number; empty where it was the user's own."""
    if "generated" not in data:
        return ""
    size = "" if scale == "paper" else f", and the models are those of scale {scale}"
    return f"Measured on generated stand-in data{size}: this is not a reproduction of the published numbers."


def machine(environment: Mapping[str, Any]) -> str:
    """One machine in words."""
    parts = [str(environment.get("cpu") or "unknown processor")]
    if environment.get("cores"):
        parts.append(_count(int(environment["cores"]), "core"))
    if environment.get("memory_gib"):
        parts.append(f"{number(environment['memory_gib'])} GiB")
    gpus = environment.get("gpus") or []
    parts += [f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus)]
    return ", ".join(parts)


def duration(seconds: float | None) -> str:
    """``48 s``, ``12 min``, ``3 h 05 min``."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def moment(iso: str | None) -> str:
    """``5 January 2026, 10:00 UTC``."""
    if not iso:
        return ""
    when = datetime.fromisoformat(iso)
    return f"{when.day} {when:%B %Y, %H:%M} {when.tzname() or 'UTC'}"


def _count(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
