"""The peer of submitting: hydra-submitit-launcher sends a multirun of a task that does nothing through the same Slurm.

Run as a script it is that task. Its own configuration is the least there can be (five keys); with ``--config-path pkg://configs``
and ``--config-name config`` it composes what ``tenfold`` composes. A multirun returns when all jobs have ended, so the end of
submitting is taken from a wrapper of sbatch, which writes down when each call returned and how many tasks it was for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

NAME = "hydra-submitit-launcher 1.2.0"
#: Longest time that one multirun may take to submit, seconds.
PATIENCE_S = 900.0
WRAPPER = """#!/bin/sh
{sbatch} "$@"
status=$?
for script; do :; done
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
echo "$(date +%s.%N) $status $((${{last:-0}} + 1))" >> {log}
exit $status
"""


def installed() -> bool:
    """Whether the peer is here (extra ``bench``)."""
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is not None
    return False


def submit_seconds(words: Sequence[str], count: int, folder: Path, environment: Mapping[str, str], *, same: bool) -> float:
    """Seconds from the start of the multirun to the return of its last sbatch; the multirun is killed then, its jobs stay.

    Args:
        words: overrides in Hydra's sweep grammar that stand for ``count`` points.
        folder: empty, for everything it writes.
        environment: variables of the process.
        same: compose the configuration that ``tenfold`` composes, not the least one.

    Raises:
        RuntimeError: sbatch refuses, or the multirun ends or takes too long before all is submitted.
    """
    log, output = folder / "sbatch.log", folder / "multirun.log"
    wrapper = folder / "bin" / "sbatch"
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text(WRAPPER.format(sbatch=shutil.which("sbatch"), log=log))
    wrapper.chmod(0o755)
    config = ["--config-path", "pkg://configs", "--config-name", "config"] if same else []
    hydra = ["--multirun", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=main", f"hydra.sweep.dir={folder}/sweep"]
    with output.open("w") as stream:
        start = time.time()
        process = subprocess.Popen(
            [sys.executable, __file__, *config, *hydra, *words],
            cwd=folder,
            env={**environment, "PATH": f"{wrapper.parent}{os.pathsep}{environment['PATH']}"},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while True:
                calls = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
                refused = any(int(status) for _, status, _ in calls)
                if refused or process.poll() is not None or time.time() - start > PATIENCE_S:
                    raise RuntimeError(f"{NAME} did not submit {count} points:\n{output.read_text()[-2000:]}")
                if sum(int(tasks) for _, _, tasks in calls) >= count:
                    return float(calls[-1][0]) - start
                time.sleep(0.05)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    """The task."""
    import hydra
    from hydra.core.config_store import ConfigStore

    if "pkg://configs" in sys.argv:
        from harness.compose import register_schemas

        register_schemas()
    ConfigStore.instance().store(name="point", node={"system": "", "scale": "", "variant": "", "size": "", "seed": 0})
    hydra.main(version_base="1.3", config_path=None, config_name="point")(lambda config: None)()


if __name__ == "__main__":
    main()
