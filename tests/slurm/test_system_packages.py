"""``make system`` on a machine that lacks a package: in a mount namespace whose /usr/sbin has no slurmctld, with an apt-get that
records what it is asked. The machine itself is not touched."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

SCRIPT = ROOT / "tools" / "system-packages"

#: Says what policy-rc.d answers while packages are installed, and brings the missing program.
APT_GET = """#!/bin/sh
/usr/sbin/policy-rc.d slurmctld start; echo "apt-get $* (policy $?)" >>{log}
case "$*" in *install*) printf '#!/bin/sh\\n' >/usr/sbin/slurmctld; chmod 755 /usr/sbin/slurmctld;; esac
"""


class Machine:
    """A view of this machine without slurmctld."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "apt.log"
        for name in ("upper", "work", "bin"):
            (folder / name).mkdir()
        folder.chmod(0o755)
        apt = folder / "bin" / "apt-get"
        apt.write_text(APT_GET.format(log=self.log))
        apt.chmod(0o755)
        systemctl = folder / "bin" / "systemctl"
        systemctl.write_text(f'#!/bin/sh\necho "systemctl $*" >>{self.log}\n')
        systemctl.chmod(0o755)
        script = folder / "system-packages"  # where an ordinary user can read it
        shutil.copy(SCRIPT, script)

    def run(self, before: str = "", prefix: str = "", system: str = "") -> subprocess.CompletedProcess[str]:
        mount = (
            f"mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir={self.folder}/upper,workdir={self.folder}/work /usr/sbin"
        )
        script = (
            f"set -e; {mount} 2>/dev/null || exit 77; rm -f /usr/sbin/policy-rc.d /usr/sbin/slurmctld; {before or ':'}\n"
            f'export PATH={self.folder}/bin:$PATH SYSTEM="{system}"; set +e\n'
            f'{prefix} {self.folder}/system-packages; echo "exit $?"; cat /usr/sbin/policy-rc.d 2>/dev/null; true'
        )
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )
        if done.returncode in (1, 77) and "exit" not in done.stdout:
            pytest.skip(f"needs permission to mount an overlay (run as root): {done.stderr.strip()}")
        return done

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not pytest's temporary folder, which is closed to other users: one test runs as another user.
    with tempfile.TemporaryDirectory(prefix="tenfold-system-") as folder:
        yield Machine(Path(folder))


def test_root_installs_what_is_missing_and_no_service_starts(machine: Machine) -> None:
    done = machine.run()
    assert "slurm-wlm" in done.stdout
    assert done.stdout.endswith("Installed.\nexit 0\n")  # and no policy-rc.d is left to be printed after it
    update, install, *disabled = machine.asked()
    assert update == "apt-get -q update (policy 101)"
    assert install.endswith("(policy 101)")
    packages = install.removesuffix(" (policy 101)").split("--no-install-recommends ")[1].split()
    assert "slurm-wlm" in packages
    present = {"munged": "munge", "slurmdbd": "slurmdbd", "mariadbd": "mariadb-server", "chromium": "chromium"}
    for program, package in present.items():
        there = shutil.which(program, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin") is not None
        assert (package in packages) == (not there)
    assert {"systemctl --quiet disable slurmctld", "systemctl --quiet disable slurmd"} <= set(disabled)


def test_nothing_is_installed_when_told_not_to(machine: Machine) -> None:
    done = machine.run(system="no")
    assert machine.asked() == []
    assert "skipped: tests marked 'slurm'" in done.stdout
    assert "make system" in done.stdout
    assert done.stdout.endswith("exit 0\n")


def test_an_ordinary_user_is_told_what_to_type(machine: Machine) -> None:
    done = machine.run(prefix="setpriv --reuid=65534 --regid=65534 --clear-groups")
    assert machine.asked() == []
    assert "sudo make system" in done.stdout
    assert "slurm-wlm" in done.stdout
    assert done.stdout.endswith("exit 0\n")


@pytest.mark.parametrize(("answer", "installs"), [(0, False), (101, True)])
def test_a_policy_that_exists_is_neither_replaced_nor_ignored(machine: Machine, answer: int, installs: bool) -> None:
    policy = f"#!/bin/sh\nexit {answer}\n"
    (machine.folder / "policy").write_text(policy)
    done = machine.run(before=f"cp {machine.folder}/policy /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d")
    assert bool(machine.asked()) == installs
    assert done.stdout.endswith(f"exit 0\n{policy}")
