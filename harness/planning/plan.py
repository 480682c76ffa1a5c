"""The plan of one experiment: what it will need, predicted from meta tensors and this machine's profile."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from harness.experiment import Experiment
from harness.planning.machine import GPU_TYPES, base, machine
from harness.planning.memory import buffer_bytes, state_bytes

GIB = 2**30
#: Steps that the loader reads ahead, plus the one in use and the one being read.
BATCHES_HELD = 4
#: Starting a worker (interpreter, imports, opening data), seconds, when nothing better is known.
START_S = 6.0


@dataclass(slots=True, kw_only=True)
class Plan:
    """A prediction; the keys of ``plan.json`` and of ``tenfold plan --json``.

    Attributes:
        bytes_per_rank: peak of the largest rank, base included.
        base_bytes: a warmed worker without a model; None when this machine's profile has not been measured.
        step_s, train_s, node_hours: None when the profile has not been measured.
        fits: on this machine; None when unknown.
        fits_gpu: by GPU type, without the host's base.
    """

    params: int | None
    flops_per_step: int | None
    ranks: int
    zero_stage: int | None
    bytes_per_rank: int | None
    base_bytes: int | None
    state_bytes: dict[str, int] = field(default_factory=dict)
    activation_bytes: int | None = None
    buffer_bytes: int = 0
    data_bytes: int = 0
    step_s: float | None = None
    train_s: float | None = None
    node_hours: float | None = None
    fits: bool | None = None
    fits_gpu: dict[str, bool] = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)
    global_batch: int = 0
    steps: int = 0
    peak_flops_per_rank: float | None = None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


def plan_key(experiment: Experiment) -> str:
    """Experiments with equal keys have equal plans: seeds and repeats do not matter."""
    from results.store import canonical_json

    config = experiment.plain
    names = ("system", "variant", "size", "scale", "ranks", "precision", "device", "engine", "train", "data", "model")
    return canonical_json({name: config[name] for name in names})


def make_plan(experiment: Experiment, *, measure: bool = False) -> Plan:
    """Predict parameters, memory, FLOPs and time.

    Args:
        measure: measure the machine's profile first if that was never done (some seconds per engine).
    """
    from models.system import TrainedSystem

    config, system, point = experiment.config, experiment.system, experiment.point
    if not isinstance(system, TrainedSystem):
        return Plan(params=None, flops_per_step=None, ranks=config.ranks, zero_stage=None, bytes_per_rank=None, base_bytes=None,
                    notes=["a profiled system plans its own phases"])  # fmt: skip
    from harness.planning.trace import trace_step

    trace = trace_step(
        lambda: system.build_model(point),
        lambda: system.example_batch(point, config.train.micro_batch),
        lambda model, batch: system.loss(point, model, batch),
    )
    stage, world = config.engine.stage, config.ranks
    notes: list[str] = []
    bucket = config.engine.bucket_elements
    largest = trace.largest_param_bytes // 4
    states = state_bytes(trace.params, stage=stage, world=world, precision=config.precision, trainable=trace.trainable)
    buffers = buffer_bytes(trace.params, largest, stage=stage, world=world, bucket=bucket, precision=config.precision)
    passes = config.train.global_batch // (config.train.micro_batch * world)
    batch_bytes = _batch_bytes(system, point) * passes * BATCHES_HELD
    data = sum(system.plan_parts(point).values()) + batch_bytes
    half = config.precision == "bf16"
    activations = trace.activation_peak_bytes // 2 if half else trace.activation_peak_bytes
    on_gpu = _on_gpu(config.device)
    if on_gpu and config.engine.offload:
        notes.append(f"{sum(states.values()) / GIB:.2f} GiB of model states per rank are kept on the host")
        states = dict.fromkeys(states, 0)
    modelled = sum(states.values()) + buffers + activations + data
    floor = base(config.engine.name, world, measure=measure)
    here = machine(measure=measure)
    plan = Plan(
        params=trace.params,
        flops_per_step=trace.flops * passes * world,
        ranks=world,
        zero_stage=stage,
        bytes_per_rank=modelled if on_gpu else modelled + (floor or 0),
        base_bytes=0 if on_gpu else floor,
        state_bytes=states,
        activation_bytes=activations,
        buffer_bytes=buffers,
        data_bytes=data,
        global_batch=config.train.global_batch,
        steps=config.train.steps,
        notes=notes,
        stages=_stages(trace.params, world, config.precision),
    )
    device_bytes = modelled - sum(system.plan_parts(point).values())
    plan.fits_gpu = {name: device_bytes <= facts["memory_gib"] * GIB * 0.92 for name, facts in GPU_TYPES.items()}
    if on_gpu:
        plan.notes.append("planned for a GPU: the base of the host process is not part of the device's peak")
        return plan
    if floor is None or not here.measured:
        plan.notes.append("this machine's profile has not been measured (tenfold doctor --prepare): no base, no times")
        plan.fits = None if floor is None else world * plan.bytes_per_rank <= here.memory_gib * GIB  # type: ignore[operator]
        return plan
    assert here.gemm_flops
    assert here.copy_bytes
    assert here.operation_s
    assert plan.bytes_per_rank is not None
    per_pass = trace.flops / here.gemm_flops + trace.moved_bytes / here.copy_bytes + trace.operations * here.operation_s
    update = 7 * trace.params * 4 / here.copy_bytes
    plan.step_s = passes * per_pass + update
    plan.train_s = plan.step_s * config.train.steps
    plan.node_hours = (plan.train_s + START_S) / 3600
    plan.peak_flops_per_rank = here.gemm_flops
    plan.fits = world * plan.bytes_per_rank <= here.memory_gib * GIB
    if not plan.fits:
        plan.notes.append(f"needs {world * plan.bytes_per_rank / GIB:.1f} GiB and this machine has {here.memory_gib:.1f}")
    return plan


def _on_gpu(device: str) -> bool:
    if device != "auto":
        return device == "cuda"
    import torch

    return torch.cuda.is_available()


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
