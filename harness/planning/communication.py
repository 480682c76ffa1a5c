"""What the ranks of a step send each other: closed forms in the parameters, and the seconds that takes.

Two forms stand side by side. :func:`published_bytes` is the paper's (Rajbhandari et al. 2020, arXiv 1910.02054, section 7):
2 Psi for ZeRO 0, 1 and 2, 3 Psi for ZeRO 3, exactly ``(N - 1) / N`` of that. :func:`traffic` is what DeepSpeed 0.19.8 asks
of the process group here: stages 1 and 2 reduce whole buckets to all ranks instead of scattering them, stages 2 and 3 do so
for every micro-batch, and stage 3 gathers a model that fits its buckets once in forward and keeps it for backward. A test
counts both.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Collectives of one rank in one optimisation step.

    Attributes:
        all_reduce_bytes, all_gather_bytes, reduce_scatter_bytes: size of the whole tensors, before they are divided.
        messages: collectives that carry them.
    """

    all_reduce_bytes: float = 0.0
    all_gather_bytes: float = 0.0
    reduce_scatter_bytes: float = 0.0
    messages: int = 0

    def sent_bytes(self, world: int) -> float:
        """Bytes that a rank sends over its link with bandwidth-optimal collectives: an all-reduce is a reduce-scatter and an
        all-gather, each of which sends ``(N - 1) / N`` of the tensor."""
        if world < 2:
            return 0.0
        return (2 * self.all_reduce_bytes + self.all_gather_bytes + self.reduce_scatter_bytes) * (world - 1) / world


def published_bytes(param_bytes: float, *, stage: int | None, world: int) -> float:
    """Bytes a rank sends per step by the paper's analysis, one micro-batch."""
    if stage is None or world < 2:
        return 0.0
    return (3 if stage == 3 else 2) * param_bytes * (world - 1) / world


def traffic(
    params: int,
    *,
    trainable: int,
    stage: int | None,
    world: int,
    passes: int,
    bucket: int,
    gathered: int,
    owner_calls: int,
    tensors: int,
    width: int = 4,
) -> Traffic:
    """What DeepSpeed sends.

    Args:
        passes: micro-batches per step.
        bucket: elements of the reduction and gathering buckets.
        gathered: elements of parameters that modules use in one forward pass, call by call.
        owner_calls: calls of modules that hold parameters, in one forward pass.
        tensors: trainable tensors.
        width: bytes of an element.
    """
    if stage is None or world < 2:
        return Traffic()
    reduced, whole = width * trainable, width * params
    buckets = min(-(-trainable // bucket), max(tensors, 1))
    if stage == 0:
        return Traffic(all_reduce_bytes=reduced, messages=1)
    if stage < 3:
        times = passes if stage == 2 else 1
        # One more, of four bytes, agrees on the gradient's norm.
        return Traffic(all_reduce_bytes=times * reduced, all_gather_bytes=reduced, messages=times * buckets + 2)
    if params <= bucket:
        gathers, calls = whole, 1
    else:  # released after every use, gathered again in backward
        gathers, calls = 2 * width * gathered, 2 * owner_calls
    return Traffic(
        all_gather_bytes=passes * gathers, reduce_scatter_bytes=passes * reduced, messages=passes * (calls + buckets) + 1
    )


def seconds(sent: Traffic, *, world: int, latency_s: float, bytes_per_s: float) -> float:
    """Seconds in collectives that nothing hides: a message's latency grows with the logarithm of the ranks, its bytes go at the
    link's speed."""
    if world < 2:
        return 0.0
    return sent.messages * latency_s * max((world - 1).bit_length(), 1) + sent.sent_bytes(world) / bytes_per_s
