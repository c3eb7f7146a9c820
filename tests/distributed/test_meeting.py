"""Where ranks of several machines meet, and the interface they talk through."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from lmm_r1.distributed import meeting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="interfaces are asked for as Linux answers")
SIOCGIFADDR = 0x8915


def own_addresses() -> Iterator[tuple[str, str]]:
    """(interface, its first address), asked one by one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has none
                continue
            yield name, socket.inet_ntoa(answer[20:24])


def test_an_address_leads_to_its_interface() -> None:
    """Would catch a structure of the kernel read at the wrong offset, and a guess where no interface has the address."""
    found = dict(own_addresses())
    assert found.get("lo") == "127.0.0.1"
    assert {name: meeting.interface_of(address) for name, address in found.items()} == {name: name for name in found}
    assert meeting.interface_of("127.0.0.2") == "lo"
    assert meeting.interface_of("192.0.2.77") is None  # an address for documentation (RFC 5737)


@pytest.mark.parametrize("given", [None, "of_the_operator"])
def test_ranks_meet_at_one_address_alone(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a store that every network can reach, and an operator's choice of interface that is lost."""
    if given is None:
        monkeypatch.delenv(meeting.GLOO_INTERFACE, raising=False)
    else:
        monkeypatch.setenv(meeting.GLOO_INTERFACE, given)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made = []
    monkeypatch.setattr(dist, "init_process_group", lambda *arguments, **named: made.append(named))
    meeting.join("gloo", f"tcp://127.0.0.1:{port}", "127.0.0.1", 0, 1, timedelta(seconds=20))
    assert os.environ.pop(meeting.GLOO_INTERFACE) == (given or "lo")
    made[0]["store"].set("met", "here")
    ours = [line.split()[1] for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")]  # fmt: skip
    assert ours == [f"0100007F:{port:04X}"]
    assert made[0]["store"].get("met") == b"here"
