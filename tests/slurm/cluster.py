"""A real SLURM on this machine: munge, slurmctld and slurmd of the distribution, one node, one stand-in GPU.

Nothing of it lies outside one folder, and it listens on ports of its own, so it does not touch a SLURM that is there already.
"""

import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

NODE = "node0"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun", "scancel")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
CPUS = 4
MEMORY_MB = 64_000

# The node may claim more than the machine has (config_overrides): what jobs ask for is the profile's, what they use is tiny.
# A GPU resource has to name a character device: /dev/null stands in for it. MinJobAge keeps the records of finished jobs.
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.socket
CredType=cred/munge
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,bf_resolution=1,sched_interval=2,batch_sched_delay=0
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={root}/log/jobcomp.log
MpiDefault=none
ReturnToService=2
MinJobAge=86400
KillWait=5
PropagateResourceLimits=NONE
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


class SlurmUnavailableError(Exception):
    """Why there can be no SLURM on this machine, in one line."""


@dataclass(frozen=True)
class Record:
    """What SLURM itself remembers of a job: ``scontrol show job``."""

    job: str
    stage: str
    state: str
    gpus: int
    cpus: int
    memory_mb: int
    limit: str
    started: datetime | None
    ended: datetime | None
    restarts: int
    folder: str

    def overlaps(self, other: "Record") -> bool:
        """Whether both ran at one moment; times are whole seconds, so touching ends do not count."""
        assert None not in (self.started, self.ended, other.started, other.ended), (self, other)
        return self.started < other.ended and other.started < self.ended


def install() -> None:
    """Have SLURM's programs on the path, installing the distribution's packages where that is possible.

    Raises:
        SlurmUnavailableError: where it is not.
    """
    os.environ["PATH"] += ":/usr/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SlurmUnavailableError(f"no {missing[0]} here, and it takes root and apt-get to install {', '.join(PACKAGES)}")
    # Runlevel 1: the packages' own services are not started.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    commands = (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES])
    for command in commands:
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=300, check=False)
        if done.returncode != 0:
            raise SlurmUnavailableError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")


class Cluster:
    """One node of SLURM below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = _free_ports()
        self.configuration = root / "etc" / "slurm.conf"
        self.clients: list[subprocess.Popen[str]] = []
        """Workflows that submit to it; ended with it, should a test have failed to."""

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to talk to this SLURM, not to another."""
        return {"SLURM_CONF": str(self.configuration), "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}

    def start(self) -> None:
        """Start all three daemons and wait until the node takes jobs."""
        for part in ("etc", "run", "log", "state", "spool", "bin"):
            (self.root / part).mkdir(parents=True)
        key = self.root / "etc" / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        user = _output(["id", "-un"]).strip()
        self.configuration.write_text(
            CONFIGURATION.format(
                root=self.root,
                host=socket.gethostname().split(".")[0],
                user=user,
                port=self.port,
                node_port=self.port + 1,
                node=NODE,
                cpus=CPUS,
                memory=MEMORY_MB,
            ),
            encoding="utf-8",
        )
        (self.root / "etc" / "gres.conf").write_text(f"NodeName={NODE} Name=gpu Count=1 File=/dev/null\n", encoding="utf-8")
        # The executor drops SLURM_CONF for the srun inside a job; where the configuration is in its usual place that does not matter.
        srun = self.root / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.configuration} exec {shutil.which("srun")} "$@"\n', encoding="utf-8")
        srun.chmod(0o755)
        self._daemon(
            "munged",
            "--force",
            f"--key-file={key}",
            f"--socket={self.root}/run/munge.socket",
            f"--pid-file={self.root}/run/munged.pid",
            f"--log-file={self.root}/log/munged.log",
            f"--seed-file={self.root}/run/munged.seed",
            "--num-threads=2",
        )
        self.start_controller()
        self._daemon("slurmd")
        self.wait_for_node("idle")

    def start_controller(self) -> None:
        self._daemon("slurmctld")

    def stop_controller(self) -> None:
        """End slurmctld as for a restart; it saves its state. (Killed, it may not know later what it had started.)"""
        self._end("slurmctld")

    def stop(self) -> None:
        """End what runs and the daemons, slurmd before slurmctld."""
        for client in self.clients:
            client.kill()
        subprocess.run(["scancel", f"--user={_output(['id', '-un']).strip()}"], env=self._environment(), timeout=30, check=False)
        for name in ("slurmd", "slurmctld", "munged"):
            self._end(name)

    def run(self, *command: str) -> str:
        """Output of a SLURM command."""
        return _output(list(command), self._environment())

    def wait_for_node(self, *states: str) -> None:
        """Wait until the node's state is one of ``states`` (``idle``, ``mixed``, ``drained``, …)."""
        deadline = time.monotonic() + 30
        state = ""
        while time.monotonic() < deadline:
            done = subprocess.run(
                ["sinfo", "--noheader", "--nodes", NODE, "--format", "%T"],
                env=self._environment(),
                capture_output=True,
                encoding="utf-8",
                timeout=30,
                check=False,
            )
            state = done.stdout.strip() or done.stderr.strip()
            if state in states:
                return
            time.sleep(0.2)
        raise AssertionError(f"{NODE} is {state!r}, not one of {states}; {self._log()}")

    def records(self, folder: Path | None = None) -> list[Record]:
        """Every job that SLURM knows of, those of one working folder if it is given, in order of submission."""
        lines = self.run("scontrol", "--oneliner", "show", "job").splitlines()
        records = [_record(line) for line in lines if line.startswith("JobId=")]
        return sorted((r for r in records if folder is None or r.folder == str(folder)), key=lambda r: int(r.job))

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def _daemon(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [name, *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stderr}; {self._log()}"

    def _process(self, name: str) -> psutil.Process | None:
        try:
            process = psutil.Process(int((self.root / "run" / f"{name}.pid").read_text(encoding="utf-8")))
            # Where nobody collects it, an ended daemon stays on as a zombie.
            alive = process.name() == name and process.status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None
        return process if alive else None

    def _end(self, name: str) -> None:
        process = self._process(name)
        if process is None:
            return
        process.terminate()
        deadline = time.monotonic() + 15
        while self._process(name) is not None:
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.1)

    def _log(self) -> str:
        texts = [f"{path.name}: {path.read_text(encoding='utf-8')[-1000:]}" for path in sorted((self.root / "log").glob("*.log"))]
        return "\n".join(texts)


def _record(line: str) -> Record:
    fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
    # rule_<rule>_wildcards_<wildcards>, or for jobs that go together rule_<group>_<rule>; no rule's name has an underscore.
    rule = fields.get("Comment", "").split("_wildcards_")[0].rsplit("_", 1)[-1]
    resources = dict(part.split("=", 1) for part in fields["TRES"].split(",") if "=" in part) if fields.get("TRES") else {}
    gpus = fields.get("TresPerJob", "")
    return Record(
        job=fields["JobId"],
        stage=rule,
        state=fields["JobState"],
        gpus=int(gpus.rsplit(":", 1)[1]) if gpus.startswith("gres:gpu") else 0,
        cpus=int(fields["NumCPUs"]),
        memory_mb=_megabytes(resources.get("mem", "0M")),
        limit=fields["TimeLimit"],
        started=_time(fields["StartTime"]),
        ended=_time(fields["EndTime"]),
        restarts=int(fields["Restarts"]),
        folder=fields["WorkDir"],
    )


def _megabytes(text: str) -> int:
    return round(float(text[:-1]) * {"M": 1, "G": 1024, "T": 1024**2}[text[-1]])


def _time(text: str) -> datetime | None:
    return None if text in ("Unknown", "N/A") else datetime.fromisoformat(text)


def _free_ports() -> int:
    """A port that is free and so is the one after it."""
    # Not the same ones for two processes that ask at the same moment.
    first = 16817 + 2 * (os.getpid() % 2500)
    for port in range(first, first + 10000, 2):
        try:
            for each in (port, port + 1):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port
    raise AssertionError("no two free ports")


def _output(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
