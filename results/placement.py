"""How a run lay on its machines: nodes, processor or GPU type, whether ranks shared cores; and what its scaling curve is called.

Made from the files of an attempt, like the rest of the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.store import canonical_json, sha256_text

#: Parts of the training section that follow from the number of ranks, or do not change what a step computes.
_LEFT_OUT = ("checkpoint_every", "micro_batch")


def placement_of(
    config: Mapping[str, Any], opening: Mapping[str, Any], environment: Mapping[str, Any], ranks: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The placement of one attempt.

    Args:
        config: the frozen configuration.
        opening: ``attempt.json``.
        environment: ``env.json`` of rank 0; stands for ranks that do not say themselves where they ran.
        ranks: the ranks' files.

    Returns:
        ``started`` (ISO 8601)``, machine`` (name of the processor or GPU; several are joined by ``+``)``, nodes, threads`` (per
        rank)``, physical_cores`` (of the node that offers fewest to the run; null where unknown)``, oversubscribed`` (whether a
        core or a GPU served more than one rank or thread; null where unknown)``, strong, weak`` (hash of what the runs of a
        curve have in common; ``weak`` takes the batch of one rank where ``strong`` takes that of all)``, engine_options`` (hash).
    """
    threads = int(opening.get("threads") or 1)
    hosts: dict[str, list[Mapping[str, Any]]] = {}
    for rank in ranks:
        hosts.setdefault(str(rank.get("host") or environment.get("host") or ""), []).append(rank)
    on_gpu = any(str(rank.get("device", "")).startswith("cuda") for rank in ranks)
    cores = [_cores(members, environment) for members in hosts.values()]
    known = [count for count in cores if count is not None]
    if on_gpu:
        shared = [_gpus_shared(members) for members in hosts.values()]
    else:
        needed = [len(members) * threads for members in hosts.values()]
        shared = [None if count is None else need > count for need, count in zip(needed, cores, strict=True)]
    return {
        "started": opening.get("started"),
        "machine": _machine(ranks, environment, on_gpu),
        "nodes": len(hosts) or None,
        "threads": threads,
        "physical_cores": min(known) if known and len(known) == len(cores) else None,
        "oversubscribed": True if any(shared) else None if None in shared or not shared else False,
        "strong": _curve(config, per_rank=False),
        "weak": _curve(config, per_rank=True),
        "engine_options": _short(config.get("engine")),
    }


def _cores(members: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> int | None:
    """Physical cores that the ranks of one host have together, within the tightest quota of time."""
    places: list[Mapping[str, Any]] = [member if "physical_cores" in member else environment for member in members]
    if any(not isinstance(place.get("physical_cores"), list) for place in places):
        return None
    together = {core for place in places for core in place["physical_cores"]}
    quotas = [int(place["cpu_quota"]) for place in places if place.get("cpu_quota")]
    return max(min([len(together), *quotas]), 1)


def _gpus_shared(members: Sequence[Mapping[str, Any]]) -> bool | None:
    names = [member.get("device_uuid") for member in members]
    if all(names):
        return len(set(names)) < len(names)
    # Without names only different indices tell: equal ones may be different GPUs, each the only one that its rank sees.
    indices = [member.get("device") for member in members]
    return False if len(set(indices)) == len(indices) else None


def _machine(ranks: Sequence[Mapping[str, Any]], environment: Mapping[str, Any], on_gpu: bool) -> str:
    names = {str(rank["machine"]) for rank in ranks if rank.get("machine")}
    if not names:
        names = set(environment.get("gpus") or ()) if on_gpu else {environment["cpu"]} if environment.get("cpu") else set()
    return " + ".join(sorted(names))


def _curve(config: Mapping[str, Any], *, per_rank: bool) -> str:
    train = {key: item for key, item in (config.get("train") or {}).items() if key not in _LEFT_OUT}
    if per_rank and train.get("global_batch"):
        train["global_batch"] = train["global_batch"] / config["ranks"]
    data = {key: item for key, item in (config.get("data") or {}).items() if key != "path"}
    same = {key: config.get(key) for key in ("precision", "model", "device")}
    cores = (config.get("launcher") or {}).get("cores_per_rank")
    return _short({**same, "train": train, "data": data, "cores_per_rank": cores})


def _short(value: Any) -> str:
    return sha256_text(canonical_json(value))[:8]
