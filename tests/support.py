"""How tests use the command line: real processes, in a folder of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.runfolder import RunFolder, run_folders

ROOT = Path(__file__).parent.parent
FAULTY = ROOT / "tests" / "faulty" / "configs"


@dataclass(frozen=True, slots=True)
class Workplace:
    """A working directory in which ``tenfold`` is typed."""

    path: Path

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TENFOLD_SYSTEMS": "faulty=tests.faulty",
            "OMP_NUM_THREADS": "1",
        }

    def command(self, *words: str) -> list[str]:
        verbs_with_configs = {"run", "sweep", "plan"}
        extra = ["--config-dir", str(FAULTY)] if words[0] in verbs_with_configs else []
        return [sys.executable, "-m", "harness", *words, *extra]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command in the background."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.path,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def tenfold(self, *words: str, expect: int | None = 0, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command; its exit status must be ``expect`` (None: any)."""
        done = subprocess.run(
            self.command(*words), cwd=self.path, env=self.environment(), capture_output=True, text=True, timeout=timeout
        )
        if expect is not None:
            assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str, expect: int | None = 0) -> Any:
        """What a command prints with ``--json``."""
        return json.loads(self.tenfold(*words, "--json", expect=expect).stdout)

    def runs(self) -> list[RunFolder]:
        """All run folders."""
        return list(run_folders(self.path / "runs"))
