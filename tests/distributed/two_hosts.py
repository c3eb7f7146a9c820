"""Two hosts on one machine, a Ray node on each, and a run that joins them. Started by test_two_nodes.py with `unshare`.

Hosts are network namespaces with names of their own, joined by a cable; every process sees only its own host's interfaces.
As on a machine with a second network, each has another interface too, to which its default route goes and which reaches nobody.
All of it lives in a namespace of processes whose first one is this program: when it ends, the kernel ends the rest.
Arguments: a recipe, a folder to work in. Prints one JSON line: where ranks and engines ran, and what the run left in the cluster.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray._private.state import state

from lmm_r1.chain import run_recipe
from lmm_r1.distributed.ray_engine import RayEngine
from lmm_r1.distributed.ray_trainer import RayTrainer
from lmm_r1.recipes import load_recipe
from lmm_r1.runs.live import LiveView

#: Host -> its address on the cable.
HOSTS = {"alpha": "10.77.0.1", "beta": "10.77.0.2"}
#: CPU cores that Ray may give away on each: one bundle of the layout, so no host has room for both ranks.
CORES = 2
PORT = 6379
HEAD = f"{HOSTS['alpha']}:{PORT}"
KNOBS = (f"cluster.address={HEAD}", "cluster.ranks=2", "cluster.engines=1", "cluster.lost_s=120")
LIMIT_S = 180.0


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


def on(host: str, *command: str) -> list[str]:
    """A command line that runs on a host."""
    return ["ip", "netns", "exec", host, "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host, *command]


def start(host: str, folder: Path) -> subprocess.Popen[bytes]:
    """A Ray node."""
    head = ("--head", f"--port={PORT}", "--temp-dir=/run/ray", "--include-dashboard=false")
    command = [
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={HOSTS[host]}"),
        *((*head, "--disable-usage-stats") if host == "alpha" else (f"--address={HEAD}",)),
        *(f"--num-cpus={CORES}", "--num-gpus=0", f"--object-store-memory={100 << 20}"),
    ]
    with (folder / f"{host}.log").open("wb") as log:
        return subprocess.Popen(on(host, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def answers(host: str) -> bool:
    """Whether Ray's store of facts can be reached from a host."""
    code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()"
    done = subprocess.run(on(host, sys.executable, "-S", "-c", code, *HEAD.split(":")), capture_output=True)
    return done.returncode == 0


def main(recipe: Path, folder: Path) -> None:
    """Start everything, and let `drive` print what came of it."""
    cable()
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    os.environ |= {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0", "RAY_enable_metrics_collection": "0", "RAY_prestart_worker_first_driver": "0",
    }  # fmt: skip
    nodes = [start("alpha", folder)]
    deadline = time.monotonic() + LIMIT_S
    while not answers("beta"):
        if nodes[0].poll() is not None or time.monotonic() > deadline:
            sys.exit("Ray's head does not start: " + (folder / "alpha.log").read_text())
        time.sleep(0.5)
    nodes.append(start("beta", folder))
    drive_it = on("alpha", sys.executable, "-m", "tests.distributed.two_hosts", "drive", str(recipe), str(folder))
    done = subprocess.run(drive_it, check=False)
    if done.returncode:
        sys.exit("\n".join(f"{name}: {(folder / f'{name}.log').read_text()[-2000:]}" for name in HOSTS))


def drive(recipe: Path, folder: Path) -> None:
    """The run itself, on the first host."""
    seen: dict[str, list[list[str]]] = {"ranks": [], "engines": []}
    watch(RayTrainer, lambda made: seen["ranks"].append([w.where.machine for w in made.workers]))
    watch(RayEngine, lambda made: seen["engines"].append([p.worker.where.machine for p in made._posts]))
    joining(2)
    run_recipe(load_recipe(recipe, KNOBS), recipe, folder / "run", live=LiveView())
    print(json.dumps({"here": socket.gethostname(), **seen, "left": left()}), flush=True)


def watch(kind: type, told: Any) -> None:
    """Have every new object of a kind looked at."""
    make = kind.__init__

    def watched(self: Any, *arguments: Any) -> None:
        make(self, *arguments)
        told(self)

    kind.__init__ = watched  # type: ignore[misc]


def joining(count: int) -> None:
    """Wait until so many nodes are there."""
    ray.init(address=HEAD, log_to_driver=False, configure_logging=False)
    deadline = time.monotonic() + LIMIT_S
    while sum(node["Alive"] for node in ray.nodes()) < count:
        if time.monotonic() > deadline:
            sys.exit("the second node does not come")
        time.sleep(0.5)
    ray.shutdown()


def left() -> dict[str, Any]:
    """What is in the cluster, once it had time to see that a run ended."""
    ray.init(address=HEAD, log_to_driver=False, configure_logging=False)
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
    (drive if sys.argv[1] == "drive" else main)(*map(Path, sys.argv[2:]))
