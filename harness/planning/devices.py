"""GPU types and links between them, from the vendors' data sheets. Nothing here was measured: plans that use it say so.

Peaks are dense (no sparsity). What programs sustain is a stated share of them: half of the arithmetic peak for training in
bf16 is what large language models reach on A100 (Narayanan et al. 2021, arXiv 2104.04473, table 1: 44 to 52 %), 80 % of the
memory bandwidth is what a STREAM copy reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

from results.errors import PlanError, near_matches

ARITHMETIC_SHARE = 0.5
BANDWIDTH_SHARE = 0.8
LINK_SHARE = 0.8
#: Largest share of the device's memory that a plan may use: the rest is the CUDA context and NCCL's buffers.
USABLE_SHARE = 0.92


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuType:
    """One GPU type.

    Attributes:
        memory_gib: of the device, as the driver reports it.
        fp32_flops, bf16_flops: dense peaks, FLOP/s; bf16 with tensor cores.
        bytes_per_s: memory bandwidth.
        link_bytes_per_s: to the other GPUs of the node, one direction (NVLink, or PCIe where there is none).
        network_bytes_per_s: per GPU between nodes, one direction, where the site does not say: one 200 or 400 Gbit/s port per GPU
            on boards with NVLink, 50 Gbit/s shared otherwise.
        launch_s: of one operator from PyTorch, Python and autograd included. Small models wait for nothing else: ten backbones
            of 1M parameters took 17 to 53 us per operator, 31 in the median, on the hosts of an H100 and of an H200.
        workspace_bytes: what cuBLAS takes for itself: 32 MiB a thread on Hopper, 8 before it, forward and backward being two.
        link_latency_s: of one collective.
    """

    memory_gib: float
    fp32_flops: float
    bf16_flops: float
    bytes_per_s: float
    link_bytes_per_s: float
    network_bytes_per_s: float
    launch_s: float = 3e-5
    link_latency_s: float = 2e-5
    workspace_bytes: int = 16 << 20

    def sustained_flops(self, precision: str) -> float:
        """FLOP/s that a plan counts on."""
        return ARITHMETIC_SHARE * (self.bf16_flops if precision == "bf16" else self.fp32_flops)

    @property
    def sustained_bytes_per_s(self) -> float:
        """Memory bandwidth that a plan counts on."""
        return BANDWIDTH_SHARE * self.bytes_per_s

    @property
    def usable_bytes(self) -> float:
        """What a rank may plan to hold."""
        return USABLE_SHARE * self.memory_gib * 2**30


def _gpu(
    memory: float, fp32: float, bf16: float, bandwidth: float, link: float, network: float, *, workspace_mib: int = 16
) -> GpuType:
    """GiB, TFLOP/s, TFLOP/s, GB/s, GB/s, GB/s."""
    return GpuType(
        memory_gib=memory,
        fp32_flops=fp32 * 1e12,
        bf16_flops=bf16 * 1e12,
        bytes_per_s=bandwidth * 1e9,
        link_bytes_per_s=link * 1e9,
        network_bytes_per_s=network * 1e9,
        workspace_bytes=workspace_mib << 20,
    )


GPU_TYPES: dict[str, GpuType] = {
    "V100-32G": _gpu(31.7, 15.7, 15.7, 900, 150, 12.5),  # no bf16 units: computed in fp32
    "A10G-24G": _gpu(22.5, 31.2, 70, 600, 16, 6.25),
    "A100-40G": _gpu(39.4, 19.5, 312, 1555, 300, 25),
    "A100-80G": _gpu(79.2, 19.5, 312, 2039, 300, 25),
    "L40S-48G": _gpu(44.4, 91.6, 362, 864, 32, 12.5),
    "H100-80G": _gpu(79.1, 66.9, 989, 3350, 450, 50, workspace_mib=64),
    "H200-141G": _gpu(139.8, 66.9, 989, 4800, 450, 50, workspace_mib=64),
}


def gpu_type(name: str) -> GpuType:
    """Facts of a type by its name here, or by a scheduler's word for it (``a100``, ``nvidia_h100_80gb_hbm3``).

    Raises:
        PlanError: it is not known, or the word fits several.
    """
    found = find_gpu_type(name)
    if found is None:
        raise PlanError(
            f"no facts are known of GPU type '{name}'{near_matches(name, list(GPU_TYPES))}",
            where="gpu",
            next_step=f"one of {', '.join(GPU_TYPES)}",
        )
    return GPU_TYPES[found]


def find_gpu_type(word: str) -> str | None:
    """The name here of a scheduler's word for a GPU type; the smallest memory where the word does not say; None if unknown."""
    if word in GPU_TYPES:
        return word
    plain = word.lower().replace("-", "_")
    matches = [
        name for name in GPU_TYPES if name.lower().split("-")[0] in plain.split("_") or plain == name.lower().split("-")[0]
    ]
    sized = [name for name in matches if name.lower().split("-")[1].removesuffix("g") + "g" in plain]
    chosen = sized or matches
    return min(chosen, key=lambda name: GPU_TYPES[name].memory_gib) if chosen else None
