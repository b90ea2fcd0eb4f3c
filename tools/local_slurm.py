"""A real Slurm of one node on this machine, to try the Slurm runner without a cluster: munge, slurmctld and slurmd.

    apt-get install --no-install-recommends slurm-wlm munge
    python tools/local_slurm.py --folder /tmp/slurm -- synthgen render --n 20k --out /tmp/d --runner slurm --tasks 4

Runs the command with SLURM_CONF set, and stops everything afterwards. Needs root, neither systemd nor cgroups. There is
no accounting, as on many clusters; a node that was lost comes back by itself, and jobs may be requeued.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_START_SECONDS = 60.0

_CONFIGURATION = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1,requeue_delay=1
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=5
SlurmctldTimeout=30
SlurmdTimeout=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=local Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """Those of Slurm's and munge's programs that are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None]


@contextmanager
def local_slurm(folder: Path, *, cpus: int | None = None) -> Iterator[dict[str, str]]:
    """Slurm while the context lasts; gives the environment variables that its commands need.

    Args:
        folder: for configuration, state and logs; its path is short, since a socket lies in it.
        cpus: cores that the node says it has; None for this machine's.

    Raises:
        RuntimeError: a daemon did not start; the message holds the end of its log.
    """
    folder = folder.absolute()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    ports = _free_ports(2)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            host=host, folder=folder, ctld_port=ports[0], slurmd_port=ports[1], cpus=cpus or os.cpu_count()
        )
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environment = {"SLURM_CONF": str(configuration)}
    munge_files = [f"--{name}={folder}/munge.{end}" for name, end in _MUNGE_FILES]
    with ExitStack() as stack:
        stack.enter_context(_daemon(["munged", "--foreground", "--force", *munge_files], folder, environment))
        _wait(lambda: (folder / "munge.socket").exists(), "munged", folder)
        stack.enter_context(_daemon(["slurmctld", "-D", "-c"], folder, environment))
        stack.enter_context(_daemon(["slurmd", "-D", "-N", host], folder, environment))
        _wait(lambda: "idle" in _ask(["sinfo", "--noheader", "--format=%T"], environment), "slurmd", folder)
        yield environment
        _ask(["scancel", "--user=root"], environment)


_MUNGE_FILES = (
    ("key-file", "key"),
    ("socket", "socket"),
    ("pid-file", "pid"),
    ("log-file", "log"),
    ("seed-file", "seed"),
)


@contextmanager
def _daemon(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program is not None, command[0]
    with open(folder / f"{command[0]}.out", "ab") as log:
        process = subprocess.Popen(
            [program, *command[1:]], env={**os.environ, **environment}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(is_up: object, name: str, folder: Path) -> None:
    assert callable(is_up)
    deadline = time.monotonic() + _START_SECONDS
    while not is_up():
        if time.monotonic() > deadline:
            logs = [path.read_text(errors="replace")[-600:] for path in sorted(folder.glob("*.out"))]
            logs += [path.read_text(errors="replace")[-600:] for path in sorted(folder.glob("slurm*.log"))]
            raise RuntimeError(f"{name} did not start within {_START_SECONDS:.0f} s:\n" + "\n".join(logs))
        time.sleep(0.2)


def _ask(command: Sequence[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True).stdout


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@click.command(help=(__doc__ or "").split("\n\n")[0], context_settings={"ignore_unknown_options": True})
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="For configuration, state and logs.")
@click.option("--cpus", type=int, help="Cores that the node says it has.  [default: this machine's]")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(folder: Path, cpus: int | None, command: tuple[str, ...]) -> None:
    if missing := missing_programs():
        raise click.UsageError(f"{', '.join(missing)} not found: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        raise click.UsageError("Slurm's daemons need root here: run this as root, in a container")
    with local_slurm(folder, cpus=cpus) as environment:
        click.echo(f"Slurm is up: export SLURM_CONF={environment['SLURM_CONF']}", err=True)
        code = subprocess.run(command, env={**os.environ, **environment}).returncode
    sys.exit(code)


if __name__ == "__main__":
    main()
