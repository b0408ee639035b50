# SPDX-License-Identifier: Apache-2.0
"""A real Slurm cluster on this machine: a controller and several nodes on loopback, without systemd and cgroups.

Needs Debian's slurmctld, slurmd, slurm-client and munge. The nodes share this machine's name and differ in their port.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

CONFIG = """\
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
StateSaveLocation={root}/state
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdLogFile={root}/slurmd.%n.log
SlurmdSpoolDir={root}/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2,requeue_setup_env_fail
MinJobAge=3600
KillWait=5
CompleteWait=0
BatchStartTimeout=10
MessageTimeout=10
SlurmdTimeout=300
InactiveLimit=0
ReturnToService=2
JobRequeue=1
PropagateResourceLimits=NONE
PlugStackConfig={root}/plugstack.conf
"""
NODE = "NodeName=n{n} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4096 Gres=gpu:8"
CGROUP = "CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY"}


PLUGIN = Path(__file__).parent / "fakepyxis.c"
"""Source of the plugin that takes the options of pyxis."""


class Slurm:
    """A running cluster; call ``stop`` at the end.

    Args:
        root: a short path, since sockets are in it.
        plugin: shared library for srun.
    """

    def __init__(self, root: Path, nodes: int = 2, cpus: int = 8, plugin: Path | None = None) -> None:
        self.root, self.nodes = root, nodes
        self.environment = os.environ | {"SLURM_CONF": str(root / "slurm.conf")}
        self._write(cpus)
        (root / "plugstack.conf").write_text(f"required {plugin}\n" if plugin else "")
        munge = [
            "--key-file",
            "key",
            "--socket",
            "munge.socket",
            "--pid-file",
            "munged.pid",
            "--log-file",
            "munged.log",
        ]
        paths = [word if word.startswith("--") else str(root / word) for word in munge]
        self.call("munged", *paths, "--seed-file", str(root / "seed"), "--num-threads=2")
        self.start_controller()
        for number in range(nodes):
            self.call("slurmd", "-N", f"n{number}")
        wait_for(lambda: self.call("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").count("n") == nodes, 30.0)

    def _write(self, cpus: int) -> None:
        root, host = self.root, socket.gethostname().split(".")[0]
        root.chmod(0o755)  # munge requires that all users can reach its socket
        for name in ("state", "spool", "dev"):
            (root / name).mkdir()
        (root / "key").write_bytes(os.urandom(1024))
        (root / "key").chmod(0o600)
        ports = free_ports(1 + self.nodes)
        lines = [NODE.format(n=n, host=host, port=ports[1 + n], cpus=cpus) for n in range(self.nodes)]
        lines.append("PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO")
        user = os.environ.get("USER") or "root"
        head = CONFIG.format(host=host, ports=ports, user=user, root=root)
        (root / "slurm.conf").write_text(head + "\n".join(lines) + "\n")
        for number in range(8):  # devices that exist but are no GPUs
            (root / "dev" / f"gpu{number}").symlink_to("/dev/null")
        gres = (
            f"AutoDetect=off\nNodeName=n[0-{self.nodes - 1}] Name=gpu Flags=nvidia_gpu_env File={root}/dev/gpu[0-7]\n"
        )
        (root / "gres.conf").write_text(gres)
        (root / "cgroup.conf").write_text(CGROUP)

    def start_controller(self) -> None:
        self.call("slurmctld", "-f", str(self.root / "slurm.conf"))
        wait_for(lambda: self.run("scontrol", "ping").returncode == 0, 20.0)

    def stop_controller(self) -> None:
        """Stop the controller as for an update: it saves its state, and the nodes keep running."""
        pid = int((self.root / "slurmctld.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), 30.0)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this cluster."""
        own = self.environment | environment | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
        return subprocess.run(command, env=own, capture_output=True, text=True, timeout=60, check=False)

    def call(self, *command: str, **environment: str) -> str:
        """Return the standard output of a command that must succeed."""
        done = self.run(*command, **environment)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *arguments: str, **environment: str) -> int:
        """Submit a job with ``sbatch``; return its number."""
        return int(self.call("sbatch", "--parsable", *arguments, **environment))

    def job(self, number: int) -> dict[str, str]:
        """Return what Slurm knows about a job."""
        words = self.call("scontrol", "show", "job", "-o", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: int, seconds: float = 300.0) -> dict[str, str]:
        """Wait for a job to end; return what Slurm knows about it."""
        wait_for(lambda: self.job(number)["JobState"] in ENDED, seconds)
        return self.job(number)

    def clear(self) -> None:
        """Cancel every job and resume drained nodes."""
        self.call("scancel", "--full", f"--user={os.environ.get('USER') or 'root'}")
        wait_for(lambda: not self.call("squeue", "-h", "-t", "R,CG"), 20.0)
        for node in self.call("sinfo", "-h", "-N", "-t", "drain", "-o", "%N").split():
            self.call("scontrol", "update", f"nodename={node}", "state=resume")

    def stop(self) -> None:
        """Cancel every job, then stop the daemons."""
        self.clear()
        for pid in [*self.root.glob("slurmd.*.pid"), self.root / "slurmctld.pid", self.root / "munged.pid"]:
            number = int(pid.read_text())
            os.kill(number, signal.SIGTERM)
            wait_for(lambda number=number: not Path(f"/proc/{number}").exists(), 20.0)


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    """Poll until a condition is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


def free_ports(number: int) -> list[int]:
    """Return ports that no process listens on."""
    probes = [socket.create_server(("0.0.0.0", 0)) for _ in range(number)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
