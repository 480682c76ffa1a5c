"""Seconds of one optimisation step: operators, modules, communication, update, what an engine adds."""

from __future__ import annotations

from dataclasses import dataclass

from harness.planning import communication
from harness.planning.devices import GPU_TYPES, LINK_SHARE
from harness.planning.machine import engine_costs, links, machine
from harness.planning.roofline import gpu_pass_seconds, pass_seconds
from harness.planning.trace import StepTrace
from harness.schema import EngineConfig

#: From host to device and back over PCIe 4.0 x16, and what all cores of a host update Adam's states with: data-sheet figures.
PCIE_BYTES_PER_S, HOST_BYTES_PER_S = 25e9, 100e9
#: What ZeRO-3's hooks take per call of a module, forward and backward together: FNO2D and U-Net at 1M on an H200's host.
ZERO3_CALL_S = 7.5e-4
#: Bytes that an update of one parameter reads and writes: weight, gradient and two moments, float32.
UPDATE_BYTES = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLayout:
    """How a step is spread over ranks.

    Attributes:
        passes: micro-batches of one rank in a step.
        ranks_per_node: those that share a host.
    """

    engine: EngineConfig
    world: int
    passes: int
    precision: str
    cores: int = 1
    ranks_per_node: int = 8


def traffic_of(trace: StepTrace, layout: StepLayout) -> communication.Traffic:
    """What the ranks send each other in one step."""
    return communication.traffic(
        trace.params,
        trainable=trace.trainable,
        stage=layout.engine.stage,
        world=layout.world,
        passes=layout.passes,
        bucket=layout.engine.bucket_elements,
        gathered=trace.owner_bytes // 4,
        owner_calls=trace.owner_calls,
        tensors=trace.parameter_tensors,
        width=2 if layout.precision == "bf16" and layout.engine.stage is not None else 4,
    )


def cpu_step(trace: StepTrace, layout: StepLayout, *, measure: bool = False) -> dict[str, float] | None:
    """Seconds of a step on this machine by cause, each rank alone on its core; None where the profile was not measured.

    More ranks than cores take turns.
    """
    here = machine(measure=measure)
    costs = engine_costs(layout.engine.name, layout.world, measure=measure)
    link = links(measure=measure) if layout.world > 1 else {"latency_s": 0.0, "bytes_per_s": float("inf")}
    if not here.measured or costs is None or link is None:
        return None
    turns = max(-(-layout.world // max(layout.cores, 1)), 1)
    by_family = pass_seconds(trace.calls, trace.module_calls, here.profile)
    found = {name: turns * layout.passes * seconds for name, seconds in by_family.items()}
    stage = layout.engine.stage or 0
    updated = trace.trainable / (layout.world if stage else 1)
    found["update"] = turns * updated * here.profile["fixed"]["update_element_s"]
    calls = trace.module_calls * layout.passes
    found["engine"] = turns * (costs["step_s"] + costs["tensor_s"] * trace.parameter_tensors + costs["call_s"] * calls)
    if layout.world > 1:
        # A few small collectives are part of what the engine was measured to add.
        sent = traffic_of(trace, layout)
        beyond = max(sent.messages * max((layout.world - 1).bit_length(), 1) - 4, 0)
        found["communication"] = beyond * link["latency_s"] + sent.sent_bytes(layout.world) / link["bytes_per_s"]
    return found


def gpu_step(trace: StepTrace, layout: StepLayout, gpu: str) -> dict[str, float]:
    """Seconds of a step on GPUs of one type by cause, from data sheets."""
    device = GPU_TYPES[gpu]
    mixed = layout.precision == "bf16"
    # What cannot overlap is counted; DeepSpeed overlaps collectives with backward on GPUs, so the longer of the two counts.
    found = {"operators": layout.passes * gpu_pass_seconds(trace.calls, device, layout.precision)}
    stage = layout.engine.stage or 0
    if stage == 3:  # the host runs ahead of the device: its hooks count where the device would wait for it anyway
        host = layout.passes * (trace.kernels * device.launch_s + trace.module_calls * ZERO3_CALL_S)
        found["engine"] = max(host - found["operators"], 0.0)
    updated = trace.trainable / (layout.world if stage else 1)
    if layout.engine.offload:
        moved = (2 if mixed else 4) * (2 * trace.params + trace.trainable) / layout.world
        found["offload"] = layout.passes * moved / PCIE_BYTES_PER_S
        found["update"] = updated * UPDATE_BYTES * min(layout.world, layout.ranks_per_node) / HOST_BYTES_PER_S
    else:
        found["update"] = updated * UPDATE_BYTES / device.sustained_bytes_per_s
    if layout.world > 1:
        speed = device.link_bytes_per_s if layout.world <= layout.ranks_per_node else device.network_bytes_per_s
        sent = communication.seconds(
            traffic_of(trace, layout), world=layout.world, latency_s=device.link_latency_s, bytes_per_s=LINK_SHARE * speed
        )
        found["communication"] = max(sent - found["operators"] * 2 / 3, 0.0)
    return found
