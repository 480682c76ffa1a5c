"""Combinations that the types allow and that make no sense: refused before anything starts, naming the key."""

from __future__ import annotations

import math

from harness.schema import ENGINES, ExperimentConfig
from launchers.retrying import check_rules
from results.errors import ConfigError, near_matches


def check(config: ExperimentConfig, source: str) -> None:
    """Hold an experiment against the rules below.

    Raises:
        ConfigError: the first rule that is broken, with the key in ``where``.
    """

    def refuse(key: str, what: str, next_step: str = "") -> None:
        raise ConfigError(what, where=f"{source}: {key}", next_step=next_step)

    def one_of(key: str, value: str, known: tuple[str, ...]) -> None:
        if value not in known:
            refuse(key, f"{key} is '{value}'{near_matches(value, known)}")

    train, engine = config.train, config.engine
    one_of("engine", engine.name, ENGINES)
    one_of("precision", config.precision, ("fp32", "bf16"))
    one_of("device", config.device, ("auto", "cpu", "cuda"))
    one_of("keep", config.keep, ("none", "last", "best"))
    one_of("tracker", config.tracker.name, ("offline", "online", "none"))
    one_of("launcher", config.launcher.name, ("local", "mpi", "slurm"))
    check_rules(config.launcher.retry, f"{source}: launcher.retry")
    if (config.launcher.name == "slurm") != (config.site.scheduler == "slurm"):
        refuse(
            "site",
            f"launcher '{config.launcher.name}' and site '{config.site.name}' (scheduler {config.site.scheduler}) do not fit",
            "launcher=slurm site=NAME, or launcher=local; tenfold doctor --site discovers a site",
        )
    one_of("train.optimizer", train.optimizer, ("adam", "adamw"))
    one_of("train.schedule", train.schedule, ("constant", "cosine", "linear"))
    one_of("train.select", train.select, ("last", "best"))
    for key, value in {
        "ranks": config.ranks,
        "train.steps": train.steps,
        "train.global_batch": train.global_batch,
        "train.micro_batch": train.micro_batch,
        "launcher.max_parallel": config.launcher.max_parallel,
        "launcher.cores_per_rank": config.launcher.cores_per_rank,
        "launcher.pack": config.launcher.pack,
        "launcher.nodes": 1 if config.launcher.nodes is None else config.launcher.nodes,
        "engine.bucket_elements": engine.bucket_elements,
    }.items():
        if value < 1:
            refuse(key, f"{key} is {value}; it must be at least 1")
    for key, number in {
        "seed": config.seed,
        "repeat": config.repeat,
        "train.lr": train.lr,
        "train.weight_decay": train.weight_decay,
        "train.lr_warmup_steps": train.lr_warmup_steps,
        "train.validate_every": train.validate_every,
        "train.checkpoint_every": train.checkpoint_every,
        "train.timing_warmup_steps": train.timing_warmup_steps,
    }.items():
        if not (math.isfinite(number) and number >= 0):
            refuse(key, f"{key} is {number}; it must be a finite number, not negative")
    for key, limit in {
        "train.clip": train.clip,
        "launcher.time_limit_s": config.launcher.time_limit_s,
        "launcher.memory_gib": config.launcher.memory_gib,
        "launcher.leave_grace_s": config.launcher.leave_grace_s,
    }.items():
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            refuse(key, f"{key} is {limit}; it must be positive, or null")
    if train.clip_at_lr and train.clip is not None:
        refuse("train.clip_at_lr", f"the clipping threshold is either the learning rate or {train.clip}", "train.clip=null")
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        refuse("train.betas", f"train.betas is {train.betas}; it takes two numbers in [0, 1)")
    if train.timing_warmup_steps >= train.steps:
        refuse(
            "train.timing_warmup_steps",
            f"{train.timing_warmup_steps} warm-up steps leave none of {train.steps} to be timed",
            "train.timing_warmup_steps=0 or more train.steps",
        )
    if engine.name == "torch" and config.ranks != 1:
        refuse("ranks", f"engine 'torch' is the single-process reference; it cannot run on {config.ranks} ranks", "engine=zero0")
    per_pass = train.micro_batch * config.ranks
    if train.global_batch % per_pass:
        refuse(
            "train.global_batch",
            f"a global batch of {train.global_batch} cannot be cut into micro-batches of {train.micro_batch} "
            f"on {config.ranks} ranks",
            f"make train.global_batch a multiple of {per_pass}, or choose train.micro_batch to divide it",
        )
    if engine.stage is not None and not 0 <= engine.stage <= 3:
        refuse("engine.stage", f"there is no ZeRO stage {engine.stage}")
    if (engine.stage is None) != (engine.name == "torch"):
        refuse("engine.stage", f"engine '{engine.name}' and stage {engine.stage} contradict each other", "engine=zero1")
    if engine.offload and engine.stage != 3:
        refuse("engine.offload", "offload needs ZeRO stage 3", "engine=zero3_offload")
    if engine.sharded_init and engine.stage != 3:
        refuse("engine.sharded_init", "sharded initialisation needs ZeRO stage 3", "engine=zero3")
    if train.select == "best" and not train.validate_every:
        refuse("train.select", "the best checkpoint cannot be chosen without validation", "train.validate_every=STEPS")
