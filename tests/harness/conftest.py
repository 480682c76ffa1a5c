"""What several test files of the harness share: one real sweep, because every real run takes seconds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from results.runfolder import RunFolder
from tests.support import Workplace

#: Two variants, two seeds: the smallest study that has everything a table shows.
WORDS = ("system=dlwp", "scale=tiny", "variant=fno2d,unet", "seed=0,1")


@dataclass(frozen=True)
class Swept:
    """A finished sweep, to be read and not to be changed."""

    place: Workplace
    study: str

    def run(self, variant: str, seed: int) -> RunFolder:
        """One of its runs."""
        return next(
            folder
            for folder in self.place.runs()
            if f"-{variant}-" in folder.name and f"\nseed: {seed}\n" in folder.config_file.read_text()
        )

    def copy(self, target: Path) -> Swept:
        """One that may be changed."""
        shutil.copytree(self.place.path, target)
        return Swept(Workplace(target), self.study)


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Four real runs, made by ``tenfold sweep`` without W&B."""
    place = Workplace(tmp_path_factory.mktemp("swept"))
    done = place.json("sweep", *WORDS, "tracker=none", "--quiet")
    assert set(done["ended"].values()) == {"completed"}
    return Swept(place, done["study"])
