"""RETRO by itself, random weights: a training step of its base, and decoding with neighbours that change at every boundary.

``python -m tests.bench.bench_retro [--device cuda] [--size 633M|272k]``. No retrieval is counted. Prints seconds and the peak of
the device's allocator (on a CPU none); nothing is written.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from models.piperag.config import model_preset
from models.piperag.retro.decoding import IncrementalDecoder
from models.piperag.retro.network import Retro, next_token_loss

STEPS, TEXTS = 8, 2


class Watch:
    """Seconds and peak memory of a device."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device == "cuda"
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def now_s(self) -> float:
        """After the device has done what was asked of it."""
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> str:
        """Of the allocator."""
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if self.on_gpu else "no device"


def train(model: Retro, device: str, tokens: int, *, half: bool) -> tuple[float, str]:
    """Median seconds of an AdamW step of :data:`TEXTS` texts, and the peak."""
    shape, optimizer = model.shape, torch.optim.AdamW(model.parameters(), lr=1e-4)
    texts = torch.randint(1, shape.vocabulary, (TEXTS, tokens), device=device)
    windows = tokens // shape.chunk_tokens
    values = torch.randint(1, shape.vocabulary, (TEXTS, windows, shape.neighbours, 2 * shape.chunk_tokens), device=device)
    watch, times = Watch(device), []
    for _ in range(STEPS):
        begun = watch.now_s()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            loss = next_token_loss(model(texts, values, shape.chunk_tokens), texts)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(watch.now_s() - begun)
    return statistics.median(times), watch.peak()


def decode(model: Retro, device: str, tokens: int, *, batch: int, interval: int) -> tuple[float, float, float, str]:
    """Seconds of a whole text, median milliseconds of a step and of one that encodes neighbours, and the peak."""
    shape, decoder = model.shape, IncrementalDecoder(model)
    state = decoder.start(batch=batch, max_tokens=tokens, interval=interval)
    newest = torch.randint(1, shape.vocabulary, (batch,), device=device)
    watch = Watch(device)
    plain: list[float] = []
    encoding: list[float] = []
    for known in range(1, tokens + 1):
        beyond = known - shape.chunk_tokens
        boundary = beyond >= 0 and beyond % interval == 0
        if boundary:
            values = torch.randint(1, shape.vocabulary, (batch, shape.neighbours, 2 * shape.chunk_tokens), device=device)
            decoder.set_neighbours(state, values)
        begun = watch.now_s()
        newest = decoder.step(state, newest).argmax(1)
        (encoding if boundary else plain).append(watch.now_s() - begun)
    return sum(plain) + sum(encoding), 1e3 * statistics.median(plain), 1e3 * statistics.median(encoding), watch.peak()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", default="633M", choices=("633M", "272k"))
    parser.add_argument("--tokens", type=int, default=1024)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with torch.device(arguments.device):
        model = Retro(model_preset("base", arguments.size, "paper" if arguments.size == "633M" else "small"))
    print(torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU", torch.__version__)
    for half in (False, True):
        seconds, peak = train(model.train(), arguments.device, arguments.tokens, half=half)
        print(f"training step, {'bf16' if half else 'fp32'}, {TEXTS} texts: {seconds:.4f} s, peak {peak}", flush=True)
    model.eval()
    chunk = model.shape.chunk_tokens
    for batch in (1, 16):
        for interval in (chunk, chunk // 8):
            whole, step_ms, boundary_ms, peak = decode(model, arguments.device, arguments.tokens, batch=batch, interval=interval)
            print(
                f"decoding {arguments.tokens} tokens, batch {batch}, interval {interval}: {whole:.2f} s, step {step_ms:.2f} ms, "
                f"with encoding {boundary_ms:.2f} ms, peak {peak}",
                flush=True,
            )


if __name__ == "__main__":
    main()
