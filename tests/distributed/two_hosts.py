"""Two hosts on one machine, and deploy/slurm.sbatch on them. Started by test_two_nodes.py with `unshare`.

Hosts are network namespaces with names of their own, joined by a cable; every process sees only its own host's interfaces.
As on a machine with a second network, each has another interface too, to which its default route goes and which reaches nobody.
Stand-ins for `scontrol` and `srun` name the hosts and run a command on them; `lmm-r1` is this file, which looks at the run.
All of it lives in a namespace of processes whose first one is this program: when it ends, the kernel ends the rest.
Arguments: a folder to work in, and those of `lmm-r1 train`. Writes report.json: where ranks and engines ran, and what the run
left in the cluster.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray._private.state import state

from lmm_r1 import cli
from lmm_r1.distributed.ray_engine import RayEngine
from lmm_r1.distributed.ray_trainer import RayTrainer

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "slurm.sbatch"
#: Host -> its address on the cable.
HOSTS = {"alpha": "10.77.0.1", "beta": "10.77.0.2"}
PORT = 6379
#: What a command is run with on a host: "$0" is the host, "$@" the command.
ON = 'exec ip netns exec "$0" unshare --uts sh -c \'hostname "$0" && exec "$@"\' "$0" "$@"'
SCONTROL = f'#!/bin/sh\n[ "$*" = "show hostnames job_hosts" ] && printf "%s\\n" {" ".join(HOSTS)}\n'
#: Of the two hosts, the one that is named or the one that is not left out.
SRUN = f"""#!/bin/bash
while [[ "$1" == --* ]]; do
  case "$1" in
    --nodelist=*) host=${{1#*=}} ;;
    --exclude=alpha) host=beta ;;
    --overlap | --nodes=1 | --ntasks=1) ;;
    *) echo "srun does not know $1" >&2; exit 2 ;;
  esac
  shift
done
cd /  # as after `ssh`: a path that is relative leads elsewhere there
exec sh -c {shlex.quote(ON)} "$host" "$@"
"""


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"ip {' '.join(arguments)}: {done.stderr}")


def cable() -> None:
    """Two hosts, and a cable between them."""
    for folder in ("/run", "/dev/shm"):  # names of hosts, Ray's folder and its store: seen in here alone, gone with us
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    for name in HOSTS:
        ip("netns", "add", name)
    ip("link", "add", "cable", "netns", "alpha", "type", "veth", "peer", "name", "cable", "netns", "beta")
    for at, (name, address) in enumerate(HOSTS.items()):
        ip("-n", name, "link", "add", "aside", "type", "veth", "peer", "name", "nowhere")
        ip("-n", name, "address", "add", f"192.0.2.{at + 1}/32", "dev", "aside")
        ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
        for interface in ("lo", "aside", "nowhere", "cable"):
            ip("-n", name, "link", "set", interface, "up")
        ip("-n", name, "route", "add", "default", "dev", "aside")


def stand_ins(folder: Path) -> Path:
    """Commands that the script finds in place of others."""
    look = [sys.executable, str(Path(__file__).resolve()), "look", str(folder)]
    commands = {"scontrol": SCONTROL, "srun": SRUN, "lmm-r1": f'#!/bin/sh\nexec {shlex.join(look)} "$@"\n'}
    place = folder / "bin"
    place.mkdir()
    for name, text in commands.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return place


def main(folder: Path, arguments: list[str]) -> int:
    """Run the script on the first host; its exit code."""
    cable()
    search = [str(stand_ins(folder)), str(Path(sys.executable).parent), os.environ["PATH"]]
    # One bundle of the layout has room on each host, so the ranks cannot be on one.
    environment = {
        **os.environ, "PATH": os.pathsep.join(search), "VENV": str(folder / "none"), "HEAD_IP": HOSTS["alpha"],
        "RAY_PORT": str(PORT), "RAY_TEMP": "/run/ray", "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "job_hosts",
        "SLURM_JOB_NUM_NODES": str(len(HOSTS)), "SLURM_GPUS_ON_NODE": "1", "SLURM_CPUS_PER_TASK": "2",
        "RAY_enable_metrics_collection": "0", "RAY_prestart_worker_first_driver": "0",
    }  # fmt: skip
    command = ["sh", "-c", ON, "alpha", "bash", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, cwd=folder, stdin=subprocess.DEVNULL).returncode


def look(folder: Path, arguments: list[str]) -> int:
    """The run itself, and what becomes of its cluster; its exit code."""
    seen: dict[str, list[list[str]]] = {"ranks": [], "engines": []}
    watch(RayTrainer, lambda made: seen["ranks"].append([w.where.machine for w in made.workers]))
    watch(RayEngine, lambda made: seen["engines"].append([p.worker.where.machine for p in made._posts]))
    code = cli.run(arguments)
    report = {"here": socket.gethostname(), **seen, "left": left()}
    (folder / "report.json").write_text(json.dumps(report))
    return code


def watch(kind: type, told: Any) -> None:
    """Have every new object of a kind looked at."""
    make = kind.__init__

    def watched(self: Any, *arguments: Any) -> None:
        make(self, *arguments)
        told(self)

    kind.__init__ = watched  # type: ignore[misc]


def left() -> dict[str, Any]:
    """What is in the cluster, once it had time to see that a run ended."""
    ray.init(address=f"{HOSTS['alpha']}:{PORT}", log_to_driver=False, configure_logging=False)
    deadline = time.monotonic() + 30.0
    while True:
        actors = [a for a in state.actor_table(None).values() if a["State"] != "DEAD"]
        groups = [g for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
        taken = ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0.0)
        if not (actors or groups or taken) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    ray.shutdown()
    return {"actors": len(actors), "groups": len(groups), "cores": taken}


if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    sys.exit(look(Path(rest[0]), rest[1:]) if first == "look" else main(Path(first), rest))
