"""Typed schema of an experiment's configuration. OmegaConf checks names and types against it; :func:`check` the combinations.

Field comments are the documentation of the keys (``docs/configuration.md`` lists them).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from launchers.retrying import RetryRule
from launchers.site import SiteProfile

ENGINES = ("torch", "zero0", "zero1", "zero2", "zero3", "zero3_offload")


@dataclass
class TrainConfig:
    """The training loop. All keys are part of a run's identity except ``checkpoint_every``."""

    steps: int = 100  # optimisation steps
    optimizer: str = "adam"  # adam | adamw
    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.0
    schedule: str = "constant"  # constant | cosine (to 0 at the last step) | linear (to 0)
    lr_warmup_steps: int = 0  # linear from 0
    clip: float | None = None  # global gradient norm; null: off
    clip_at_lr: bool = False  # the threshold is the step's learning rate, and shrinks with it; needs clip: null
    global_batch: int = 1  # samples per optimisation step, all ranks together
    micro_batch: int = 0  # samples per forward pass on one rank; 0: the rank's whole share of the global batch
    select: str = "last"  # which checkpoint is evaluated: last | best (by select_metric on the validation samples)
    select_metric: str | None = None
    validate_every: int = 0  # steps; 0: never
    checkpoint_every: int = 0  # steps; 0: only when asked to leave, and at the end
    timing_warmup_steps: int = 5  # first steps of every attempt that no step time is taken from


@dataclass
class EngineConfig:
    """How a step executes."""

    name: str = MISSING
    stage: int | None = None  # ZeRO stage; null: plain PyTorch
    offload: bool = False  # ZeRO-3: parameters and optimiser states in host memory
    bucket_elements: int = 5_000_000  # gradient reduction and gathering buckets
    persistence_threshold_elements: int = 100_000  # ZeRO-3: smaller parameters stay whole on every rank
    sharded_init: bool = False  # ZeRO-3: parameters are sharded while the model is built


@dataclass
class LauncherConfig:
    """How runs reach the machine. Not part of a run's identity."""

    name: str = "local"  # local | mpi | slurm
    max_parallel: int = 2  # runs at a time; slurm: of those that share a job
    cores_per_rank: int = 1
    memory_gib: float | None = None  # local, mpi: for all runs together; null: what the machine has available at the start
    time_limit_s: float | None = None  # local, mpi: a run that takes longer is stopped (`timeout`); slurm: the job's limit
    # Ranks that are asked to leave are killed after that and three of their steps; slurm: only where nothing else ends the job.
    leave_grace_s: float = 120.0
    nodes: int | None = None  # slurm: nodes of a run; null: as few as its ranks fit on
    pack: int = 1  # slurm: runs that share one job
    arguments: list[str] = field(default_factory=list)  # mpi: further words of mpiexec
    retry: dict[str, RetryRule] = field(default_factory=dict)  # what follows a failure by itself, by its class


@dataclass
class TrackerConfig:
    """Weights & Biases. Not part of a run's identity."""

    name: str = "offline"  # offline | online | none
    project: str = "tenfold"
    entity: str | None = None


@dataclass
class PathsConfig:
    """Where things lie, relative to the working directory. Not part of a run's identity."""

    runs: str = "runs"
    data: str = "data"
    reports: str = "reports"


@dataclass
class ExperimentConfig:
    """One experiment: a point."""

    system: str = MISSING
    variant: str = MISSING
    size: str | None = None  # null: the variant's default at this scale
    scale: str = MISSING  # tiny | small | paper
    seed: int = 0
    repeat: int = 0  # repeats time and memory with the same seed
    ranks: int = 1
    precision: str = "fp32"  # fp32 | bf16
    device: str = "auto"  # auto | cpu | cuda
    keep: str = "last"  # checkpoints that stay after completion: none | last | best
    engine: EngineConfig = field(default_factory=EngineConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    site: SiteProfile = field(default_factory=SiteProfile)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: Any = None  # typed by the system's `Data`
    model: Any = None  # typed by the system's `model_preset(variant, size, scale)`
