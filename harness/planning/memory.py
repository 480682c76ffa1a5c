"""Bytes per rank of model states under each engine: closed forms in the number of parameters and ranks."""

from __future__ import annotations


def state_bytes(
    params: int, *, stage: int | None, world: int, precision: str = "fp32", trainable: int | None = None
) -> dict[str, int]:
    """Parameters, gradients and optimiser states (Adam) of one rank.

    Mixed precision (bf16 under DeepSpeed) holds 2 bytes of parameter, 2 of gradient and 12 of optimiser state (fp32 master copy
    and two moments); stage 1 divides the optimiser's, stage 2 also the gradients', stage 3 also the parameters' share by the
    world (Rajbhandari et al. 2020, arXiv 1910.02054, section 3). In fp32 it is 4 + 4 + 8, and ZeRO from stage 1 on keeps a
    separate master copy of the rank's partition (4 more, divided). The plain engine in bf16 is autocast over fp32 weights: as
    fp32.

    Args:
        params: real parameters.
        trainable: those that have gradients and optimiser states; all by default.
        stage: None for the plain engine.
    """
    mixed = precision == "bf16" and stage is not None
    parameter, gradient = (2, 2) if mixed else (4, 4)
    optimizer = 12 if mixed else 12 if stage else 8
    level = stage or 0
    trained = params if trainable is None else trainable
    share, trained_share = -(-params // world), -(-trained // world)
    return {
        "parameters": parameter * (share if level >= 3 else params),
        "gradients": gradient * (trained_share if level >= 2 else trained),
        "optimizer": optimizer * (trained_share if level >= 1 else trained),
    }


def buffer_bytes(params: int, largest: int, *, stage: int | None, world: int, bucket: int, precision: str = "fp32") -> int:
    """Buffers that DeepSpeed adds: reduction bucket, flattened copies, parameters gathered for use (stage 3).

    A bucket is only as large as what passes through it, because untouched pages cost nothing on the host.

    Args:
        largest: elements of the largest parameter.
        bucket: elements of the configured bucket.
    """
    if stage is None:
        return 0
    width = 2 if precision == "bf16" else 4
    bucketed = min(params, bucket)
    if stage == 0:
        return width * bucketed if world > 1 else 0
    if stage < 3:
        return width * (bucketed + -(-params // world))
    return width * (min(params, max(bucket, largest)) + bucketed)


def update_bytes(trainable: int, *, stage: int | None, world: int, precision: str = "fp32") -> int:
    """Temporaries of the optimiser's update: torch's multi-tensor Adam makes one denominator per second moment, at the time when
    activations are gone; under ZeRO in bf16 the gradients of the rank's partition are copied to fp32 besides."""
    share = -(-trainable // world) if (stage or 0) >= 1 else trainable
    return share * (8 if precision == "bf16" and stage is not None else 4)


#: What CUDA's caching allocator must be able to reserve beyond what is live, as a share. On an H200 it had reserved
#: 1.04 to 1.31 times its peak (1.14 in the median); what it holds unused, it gives back before it fails.
GPU_FRAGMENTATION = 0.10


def checkpoint_bytes(params: int, trainable: int, *, stage: int | None, precision: str = "fp32") -> int:
    """Size of one checkpoint over all ranks: weights, and two moments of what is trained; ZeRO from stage 1 on (and bf16) adds
    the fp32 master copy."""
    mixed = precision == "bf16" and stage is not None
    return params * (2 if mixed else 4) + trainable * (12 if mixed or stage else 8)
