"""A launcher to be killed: ``python -m tests.launchers.launching RUNS NAME...`` submits frozen runs as ``tenfold retry`` does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.display import Display
from harness.experiment import Experiment
from harness.schema import EngineConfig, ExperimentConfig, LauncherConfig, PathsConfig
from harness.submitting import Submitted, submit_requests
from launchers.request import RunRequest
from launchers.site import SiteProfile

SITE = SiteProfile(name="ridge", scheduler="slurm", partition="batch", python="/opt/python")


def launch(requests: Sequence[RunRequest], *, site: SiteProfile = SITE) -> Submitted:
    """Survey what was submitted before, then submit what is not in the queue; all under the ledger's lock."""
    config = ExperimentConfig(
        system="fake", variant="v", scale="tiny", engine=EngineConfig(name="torch"), launcher=LauncherConfig(name="slurm"),
        site=site, paths=PathsConfig(runs=str(requests[0].folder.parent)),
    )  # fmt: skip
    with Display(quiet=True) as display:
        return submit_requests(requests, Experiment(config), display, study="again", command="tenfold retry")


if __name__ == "__main__":
    launch([RunRequest(folder=Path(sys.argv[1]) / name) for name in sys.argv[2:]])
