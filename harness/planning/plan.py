"""The plan of one experiment: what it will need, predicted from meta tensors and this machine's profile."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from harness.experiment import Experiment
from harness.planning.communication import published_bytes
from harness.planning.costs import StepLayout, cpu_step, gpu_step, traffic_of
from harness.planning.devices import GPU_TYPES, GpuType
from harness.planning.feasible import remarks
from harness.planning.machine import base, machine, stand_in
from harness.planning.memory import GPU_FRAGMENTATION, buffer_bytes, checkpoint_bytes, state_bytes, update_bytes
from harness.planning.operations import Family
from harness.schema import ExperimentConfig

if TYPE_CHECKING:
    from models.system import PhasePlan

GIB = 2**30
#: Steps that the loader reads ahead, plus the one in use and the one being read.
BATCHES_HELD = 4
#: Starting a worker (interpreter, imports, opening data), seconds, when nothing better is known.
START_S = 6.0
#: Bytes that a rank's step leaves in the series and the crash log.
STEP_RECORD_BYTES = 300
#: Everything else that a run leaves: configuration, plan, environment, logs, pictures.
RUN_RECORD_BYTES = 300_000


@dataclass(slots=True, kw_only=True)
class Plan:
    """A prediction; the keys of ``plan.json`` and of ``tenfold plan --json``.

    Attributes:
        device: ``cpu``, or the GPU type planned for; ``cuda`` for a GPU of unknown type.
        bytes_per_rank: peak of the largest rank where it is measured: the process on a CPU, base included, the device on a GPU.
        host_bytes_per_rank: of the rank's process; None when the base has not been measured.
        base_bytes: a warmed worker without a model; None when this machine's profile has not been measured.
        state_bytes: parameters, gradients, optimizer, where ``bytes_per_rank`` is counted.
        activation_bytes: largest sum of live tensors in forward and backward.
        fragmentation_bytes: what the allocator holds beyond that.
        buffer_bytes: what DeepSpeed adds.
        sent_bytes_per_step, published_sent_bytes: per rank, as counted of DeepSpeed and by the paper's closed form.
        step_s, train_s, node_hours: None when the profile has not been measured.
        step_parts_s: seconds of a step by cause.
        storage_bytes: what the run leaves on disk.
        fits: where it is planned for (this machine, or ``device``); None when unknown.
        fits_gpu: by GPU type, without the host's base.
    """

    params: int | None
    flops_per_step: int | None
    ranks: int
    zero_stage: int | None
    bytes_per_rank: int | None
    base_bytes: int | None
    device: str = "cpu"
    host_bytes_per_rank: int | None = None
    state_bytes: dict[str, int] = field(default_factory=dict)
    activation_bytes: int | None = None
    fragmentation_bytes: int = 0
    buffer_bytes: int = 0
    data_bytes: int = 0
    sent_bytes_per_step: float = 0.0
    published_sent_bytes: float = 0.0
    step_s: float | None = None
    step_parts_s: dict[str, float] = field(default_factory=dict)
    train_s: float | None = None
    node_hours: float | None = None
    storage_bytes: int = 0
    fits: bool | None = None
    fits_gpu: dict[str, bool] = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)
    global_batch: int = 0
    micro_batch: int = 0
    steps: int = 0
    peak_flops_per_rank: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def whole_s(self) -> float | None:
        """Training and starting; None where the time is not known."""
        return None if self.train_s is None else self.train_s + START_S

    def as_dict(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


def plan_key(experiment: Experiment) -> str:
    """Experiments with equal keys have equal plans: seeds and repeats do not matter."""
    from results.store import canonical_json

    config = experiment.plain
    names = ("system", "variant", "size", "scale", "ranks", "precision", "device", "engine", "train", "data", "model", "keep")
    launcher = {name: config["launcher"][name] for name in ("name", "cores_per_rank")}
    return canonical_json({"launcher": launcher, **{name: config[name] for name in names}})


def make_plan(experiment: Experiment, *, gpu: str | None = None, measure: bool = False) -> Plan:
    """Predict parameters, memory, FLOPs, communication and time.

    Args:
        gpu: plan for a GPU of this type instead of for this machine.
        measure: measure the machine's profile first if that was never done (some seconds per engine).
    """
    from models.system import TrainedSystem

    config, system, point = experiment.config, experiment.system, experiment.point
    phases = system.plan(point)
    if phases is not None:
        return _plan_phases(experiment, phases, measure=measure)
    if not isinstance(system, TrainedSystem):
        return Plan(params=None, flops_per_step=None, ranks=config.ranks, zero_stage=None, bytes_per_rank=None, base_bytes=None,
                    notes=["this system plans nothing"])  # fmt: skip
    device = gpu or _device(config.device)
    trace = _trace(experiment, "cpu" if device == "cpu" else "cuda")
    held = sum(system.plan_parts(point).values())
    return plan_trace(
        experiment,
        trace,
        device=device,
        data_bytes=held,
        batch_bytes=_batch_bytes(system, point),
        measure=measure,
    )


def plan_trace(
    experiment: Experiment, trace: Any, *, device: str, data_bytes: int, batch_bytes: int, measure: bool = False
) -> Plan:
    """The plan of an experiment whose micro-batch has been traced (:class:`harness.planning.trace.StepTrace`).

    Args:
        device: ``cpu`` (this machine), a GPU type, or ``cuda``.
        data_bytes: what a rank's process holds of the data.
        batch_bytes: of one micro-batch.
    """
    config = experiment.config
    stage, world, on_gpu = config.engine.stage, config.ranks, device != "cpu"
    passes = config.train.global_batch // (config.train.micro_batch * world)
    layout = StepLayout(engine=config.engine, world=world, passes=passes, precision=config.precision, cores=_cores(config))
    sharding: dict[str, Any] = {"stage": stage, "world": world, "precision": config.precision}
    states = state_bytes(trace.params, **sharding, trainable=trace.trainable)
    buffers = buffer_bytes(
        trace.params,
        trace.largest_param,
        stage=stage,
        world=world,
        bucket=config.engine.bucket_elements,
        precision=config.precision,
    )
    activations, fragmentation = _activations(trace, on_gpu=on_gpu)
    # The update comes when activations are gone: what it needs beyond their place.
    updating = update_bytes(trace.trainable, **sharding)
    working = max(activations + fragmentation, updating if not config.engine.offload or not on_gpu else 0)
    if on_gpu and stage is None:  # traced with gradients that come as activations go, and are counted among the states
        working = max(activations, states["gradients"] + updating) - states["gradients"]
    batches = batch_bytes * (passes if not on_gpu else 1) * (BATCHES_HELD if not on_gpu else 1)
    convolutions = sum(1 for call in trace.calls if call.family.startswith("convolution"))
    floor = base(config.engine.name, world, convolutions=convolutions, measure=measure and not on_gpu)
    plan = Plan(
        params=trace.params,
        flops_per_step=trace.flops * passes * world,
        ranks=world,
        zero_stage=stage,
        bytes_per_rank=None,
        base_bytes=_workspace(trace, GPU_TYPES.get(device)) if on_gpu else floor,
        device=device,
        state_bytes=states,
        activation_bytes=activations,
        fragmentation_bytes=max(working - activations, 0),
        buffer_bytes=buffers,
        data_bytes=batches if on_gpu else data_bytes + batches,
        sent_bytes_per_step=traffic_of(trace, layout).sent_bytes(world),
        published_sent_bytes=published_bytes(
            trace.params * (2 if config.precision == "bf16" and stage is not None else 4), stage=stage, world=world
        ),
        storage_bytes=_storage(config, trace),
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch,
        steps=config.train.steps,
        stages=_stages(trace.params, world, config.precision),
    )
    on_host = sum(states.values()) if config.engine.offload else 0
    on_device = (0 if config.engine.offload else sum(states.values())) + buffers + working + batches
    reserved = int(GPU_FRAGMENTATION * activations)
    for name, facts in GPU_TYPES.items():
        plan.fits_gpu[name] = on_device + reserved + _workspace(trace, facts) <= facts.usable_bytes
    if on_gpu:
        _plan_gpu(
            plan,
            trace,
            layout,
            on_device=on_device + (plan.base_bytes or 0),
            reserved=reserved,
            on_host=on_host + data_bytes,
            floor=floor,
        )
    else:
        _plan_cpu(plan, trace, layout, floor=floor, measure=measure)
    if plan.step_s is not None:
        plan.train_s = plan.step_s * config.train.steps
        nodes = -(-world // layout.ranks_per_node) if on_gpu else 1
        plan.node_hours = nodes * (plan.train_s + START_S) / 3600
    plan.notes += remarks(experiment, device=device)
    return plan


def _plan_phases(experiment: Experiment, phases: PhasePlan, *, measure: bool) -> Plan:
    """A profiled system's own prediction, on top of what every worker holds."""
    config = experiment.config
    floor = base("torch", 1, measure=measure)
    here = machine(measure=measure)
    needed = phases.bytes_per_rank + (floor or 0)
    plan = Plan(
        params=phases.params,
        flops_per_step=None,
        ranks=config.ranks,
        zero_stage=None,
        bytes_per_rank=needed,
        base_bytes=floor,
        host_bytes_per_rank=None if floor is None else needed,
        train_s=phases.seconds,
        step_parts_s=dict(phases.parts_s),
        storage_bytes=phases.storage_bytes + RUN_RECORD_BYTES,
        fits=config.ranks * needed <= here.memory_gib * GIB,
        notes=list(phases.notes),
    )
    if phases.seconds is not None:
        plan.node_hours = (phases.seconds + START_S) / 3600
    if not plan.fits:
        plan.notes.append(f"needs {config.ranks * needed / GIB:.1f} GiB and this machine has {here.memory_gib:.1f}")
    return plan


def _workspace(trace: Any, gpu: GpuType | None) -> int:
    """What the device's library of matrix products holds; the most of any type where the type is not known."""
    if all(call.family is not Family.PRODUCT for call in trace.calls):
        return 0
    return gpu.workspace_bytes if gpu else max(facts.workspace_bytes for facts in GPU_TYPES.values())


def _plan_cpu(plan: Plan, trace: Any, layout: StepLayout, *, floor: int | None, measure: bool) -> None:
    here = machine(measure=measure)
    modelled = sum(plan.state_bytes.values()) + plan.buffer_bytes + plan.data_bytes
    modelled += (plan.activation_bytes or 0) + plan.fragmentation_bytes
    plan.bytes_per_rank = modelled + (floor or 0)
    plan.host_bytes_per_rank = None if floor is None else plan.bytes_per_rank
    parts = cpu_step(trace, layout, measure=measure)
    if floor is None or parts is None:
        plan.notes.append("this machine's profile has not been measured (tenfold doctor --prepare): no base, no times")
        plan.fits = None if floor is None else plan.ranks * plan.bytes_per_rank <= here.memory_gib * GIB
        return
    if here.in_company:
        plan.notes.append(
            f"this machine's profile was measured while others computed (load {here.profile['load_1m']:.1f}): times are too long;"
            " on an idle machine, remove its folder (tenfold doctor names it) and: tenfold doctor --prepare"
        )
    other = stand_in(layout.engine.name, layout.world)
    if other:
        plan.notes.append(f"base and cost of the engine are those of {other}: its own are measured when it first runs")
    plan.step_parts_s, plan.step_s = parts, sum(parts.values())
    plan.peak_flops_per_rank = here.gemm_flops
    needed = plan.ranks * plan.bytes_per_rank
    plan.fits = needed <= here.memory_gib * GIB
    if not plan.fits:
        plan.notes.append(f"needs {needed / GIB:.1f} GiB and this machine has {here.memory_gib:.1f}")


def _plan_gpu(
    plan: Plan, trace: Any, layout: StepLayout, *, on_device: int, reserved: int, on_host: int, floor: int | None
) -> None:
    if layout.engine.offload:
        plan.notes.append(f"{sum(plan.state_bytes.values()) / GIB:.2f} GiB of model states per rank are kept on the host")
        plan.state_bytes = dict.fromkeys(plan.state_bytes, 0)
    plan.bytes_per_rank = on_device
    plan.host_bytes_per_rank = None if floor is None else floor + on_host
    plan.notes.append("planned for a GPU: the base of the host process is not part of the device's peak")
    facts = GPU_TYPES.get(plan.device)
    if facts is None:
        return
    plan.fits = on_device + reserved <= facts.usable_bytes
    if not plan.fits:
        plan.notes.append(
            f"needs {(on_device + reserved) / GIB:.1f} GiB, {facts.usable_bytes / GIB:.1f} of a {plan.device} may be used"
        )
    plan.step_parts_s = gpu_step(trace, layout, plan.device)
    plan.step_s = sum(plan.step_parts_s.values())
    plan.peak_flops_per_rank = facts.bf16_flops if layout.precision == "bf16" else facts.fp32_flops
    plan.notes.append("times on a GPU are from data sheets at stated efficiencies (docs/planning.md), not measured here")


def _activations(trace: Any, *, on_gpu: bool) -> tuple[int, int]:
    """Live bytes at the peak, and what the process holds beyond them: on a GPU nothing that its allocator counts as allocated."""
    live = trace.activation_peak_bytes
    if on_gpu:
        return live, 0
    from harness.planning.heap import replay

    return live, max(replay(trace.events, steps=3) - live, 0)


def _storage(config: ExperimentConfig, trace: Any) -> int:
    """Series, records and the checkpoints that stay."""
    kept = 0 if config.keep == "none" else 1
    checkpoint = checkpoint_bytes(trace.params, trace.trainable, stage=config.engine.stage, precision=config.precision)
    return int(kept * checkpoint + config.train.steps * config.ranks * STEP_RECORD_BYTES + RUN_RECORD_BYTES)


def _cores(config: ExperimentConfig) -> int:
    """Ranks that work at the same time: on this machine as many as it has cores for, elsewhere all."""
    if config.launcher.name != "local":
        return config.ranks
    return max(len(os.sched_getaffinity(0)) // config.launcher.cores_per_rank, 1)


def _device(device: str) -> str:
    """Where it would run here: ``cpu``, or the GPU's type, or ``cuda`` if that is not known."""
    if device == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        return "cpu" if device == "auto" else "cuda"
    from harness.planning.devices import find_gpu_type

    return find_gpu_type(torch.cuda.get_device_name().replace(" ", "_")) or "cuda"


_traces: OrderedDict[str, Any] = OrderedDict()
#: A trace of a large model is some megabytes of events; layouts of one experiment share it.
TRACES_KEPT = 16


def _trace(experiment: Experiment, device_type: str) -> Any:
    """The trace of one micro-batch on a CPU or a GPU, which may take different paths; engines, ranks and seeds share it."""
    from harness.planning.trace import trace_step
    from models.layers.precision import planned_for
    from results.store import canonical_json

    config, system, point = experiment.config, experiment.system, experiment.point
    plain = experiment.plain
    key = canonical_json({name: plain[name] for name in ("system", "variant", "size", "scale", "precision", "data", "model")})
    half_weights = config.precision == "bf16" and config.engine.stage is not None
    # The plain engine drops its gradients after every step.
    gradients_kept = device_type == "cpu" or config.engine.stage is not None
    key += f"/{config.train.micro_batch}/{device_type}/{half_weights}/{gradients_kept}"
    if key not in _traces:
        with planned_for(device_type):
            _traces[key] = trace_step(
                lambda: system.build_model(point),  # type: ignore[attr-defined]
                lambda: system.example_batch(point, config.train.micro_batch),  # type: ignore[attr-defined]
                lambda model, batch: system.loss(point, model, batch),  # type: ignore[attr-defined]
                autocast=config.precision == "bf16",
                half_weights=half_weights,
                gradients_kept=gradients_kept,
            )
        while len(_traces) > TRACES_KEPT:
            _traces.popitem(last=False)
    return _traces[key]


def _batch_bytes(system: Any, point: Any) -> int:
    import torch

    with torch.device("meta"):
        batch = system.example_batch(point, point.micro_batch)
    return sum(tensor.numel() * tensor.element_size() for tensor in batch.values())


def _stages(params: int, world: int, precision: str) -> dict[str, int]:
    """Model-state bytes per rank under every engine, for the table that helps to choose one."""
    stages: dict[str, int | None] = {"torch": None, "zero0": 0, "zero1": 1, "zero2": 2, "zero3": 3}
    return {
        name: sum(state_bytes(params, stage=stage, world=1 if stage is None else world, precision=precision).values())
        for name, stage in stages.items()
    }
