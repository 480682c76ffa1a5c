"""A real Slurm of several nodes on this one machine, loopback only, in a folder of its own: to try and to test the Slurm path."""

from launchers.cluster.loopback import LoopbackCluster
from launchers.cluster.settings import ClusterSettings, default_folder
from launchers.cluster.status import ClusterStatus

__all__ = ["ClusterSettings", "ClusterStatus", "LoopbackCluster", "default_folder"]
