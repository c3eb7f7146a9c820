"""How ranks in several processes find each other, and through which of a machine's networks they talk.

On one machine they meet in a file and use its loopback address. On several they meet at a port of the first rank's machine, at
the address by which Ray knows it. torch would listen on all addresses there, and Gloo talk through whatever interface
the host name leads to: on many machines the loopback one, on some a network that the others cannot reach.
Leaves out: NCCL, which chooses among interfaces by rules of its own (docs/scale.md, "Launching").
Source: netdevice(7), SIOCGIFCONF.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from datetime import timedelta
from urllib.parse import urlsplit

import torch.distributed as dist

#: The variable that tells Gloo its interface; whoever starts the cluster may have set it.
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
_SIOCGIFCONF = 0x8912
#: struct ifreq where pointers have 64 bits: name, and a union of which a sockaddr_in is the start (family, port, address).
_ENTRY = struct.Struct("16sHH4s16x")
_MOST_ENTRIES = 1024


def join(backend: str, meeting: str, address: str, index: int, world: int, limit: timedelta) -> None:
    """Make the process group of rank `index` of `world`; returns when all are there. Arguments: see `meet`."""
    store = meet(meeting, address, index, world, limit)
    dist.init_process_group(backend, store=store, rank=index, world_size=world, timeout=limit)


def meet(meeting: str, address: str, index: int, world: int, limit: timedelta) -> dist.Store:
    """What `world` processes meet at, in this one with the number `index`, which now talks through the right interface.

    meeting: "file:///path" or "tcp://host:port", the same for all, where host is the first one's: that one serves it, at its
    own address alone. address: of this process's machine, IPv4, as the others reach it. limit: of the meeting.
    """
    url = urlsplit(meeting)
    if url.scheme == "file":
        os.environ[GLOO_INTERFACE] = "lo"
        return dist.FileStore(url.path, world)
    interface = interface_of(address)
    if interface is not None:
        os.environ.setdefault(GLOO_INTERFACE, interface)
    host, port = str(url.hostname), int(url.port or 0)
    first = index == 0
    listening = socket.create_server((host, port), backlog=world).detach() if first else None
    return dist.TCPStore(host, port, world, first, limit, wait_for_workers=False, master_listen_fd=listening)


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an IPv4 address; None when none has it."""
    wanted = socket.inet_aton(address)
    if wanted[0] == 127:
        return "lo"  # has all of 127.0.0.0/8, whatever it lists
    room = array.array("B", bytes(_MOST_ENTRIES * _ENTRY.size))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, _SIOCGIFCONF, struct.pack("iP", len(room), room.buffer_info()[0]))
    used = struct.unpack("iP", answer)[0]
    for name, family, _, found in _ENTRY.iter_unpack(room[:used].tobytes()):
        if family == socket.AF_INET and found == wanted:
            return str(name.split(b"\0")[0].decode().partition(":")[0])  # a second address may be called "eth0:1"
    return None
