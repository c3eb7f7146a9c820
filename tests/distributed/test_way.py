"""The way for weights between processes: every bit arrives, on any number of receivers, and nobody waits for one who left."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lmm_r1.rollout.weights import lanes_digest
from tests.distributed.processes import orphans
from tests.members import run_members

PROGRAM = Path(__file__).with_name("way_ends.py")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="interfaces and shared memory are those of Linux")


def ends(tmp_path: Path, members: int, kind: str, fault: str = "") -> list[dict[str, Any]]:
    """What each end says; {} of one that died."""
    before = set(os.listdir("/dev/shm"))
    meeting = f"file://{tmp_path / 'meeting'}"
    arguments = [(str(index), str(members), meeting, kind, fault) for index in range(members)]
    found = []
    for code, output in run_members(PROGRAM, arguments, tmp_path, limit_s=120.0):
        assert code in (0, -9), output
        found.append(json.loads(output.splitlines()[-1]) if code == 0 else {})
    assert not orphans(before), "shared memory is left"
    return found


@pytest.mark.parametrize(("kind", "members"), [("shared", 2), ("broadcast", 2), ("broadcast", 4)])
def test_every_bit_arrives(tmp_path: Path, kind: str, members: int) -> None:
    """Would catch a parcel that is overwritten before it was read, a tensor that is cut, misplaced or of another dtype, a second
    transfer that begins with the rest of the first, and a port that every network can reach."""
    sender, *receivers = ends(tmp_path, members, kind)
    assert len({sender["digest 1"], sender["digest 2"]}) == 2
    for found in receivers:
        assert found["exact 1"] and found["exact 2"]
        assert [found["digest 1"], found["digest 2"]] == [sender["digest 1"], sender["digest 2"]]
    for found in (sender, *receivers):
        assert set(found["listening"]) <= {"0100007F"}, "reachable from outside"


@pytest.mark.parametrize("kind", ["shared", "broadcast"])
@pytest.mark.parametrize("fault", ["0:raise", "0:die", "1:raise", "1:die", "1:leave"])
def test_nobody_waits_for_one_who_left(tmp_path: Path, kind: str, fault: str) -> None:
    """Would catch ends that hang when another raises, dies or stops reading in the middle, and a part that passes for the whole."""
    found = ends(tmp_path, 2 if kind == "shared" else 3, kind, fault)
    who, what = fault.split(":")
    for index, told in enumerate(found):
        if index != int(who):
            assert told["fault"].startswith("WayClosedError") and "digest 2" not in told
        elif what == "raise":
            assert told["fault"] == "EngineError: this end has no more"
        elif what == "die":
            assert not told


def test_the_checksum_of_lanes_sees_what_a_transfer_can_break() -> None:
    """Would catch a checksum that is blind to signs, to order, to a block that came twice, or to bytes behind the last word."""
    plain = torch.randn(1 << 19, generator=torch.Generator().manual_seed(0))
    broken = {}
    for name in ("sign", "signs", "swap", "block", "low bit", "zero"):
        broken[name] = plain.clone()
    broken["sign"][7] *= -1
    broken["signs"][:1000] *= -1
    broken["swap"][[3, 300_000]] = plain[[300_000, 3]]
    broken["block"][4096:8192] = plain[:4096]
    broken["low bit"].view(torch.int32)[-1] ^= 1
    broken["zero"][100_000:100_016] = 0
    found = {name: lanes_digest(tensor) for name, tensor in broken.items()} | {"plain": lanes_digest(plain)}
    assert len(set(found.values())) == len(found)
    short = torch.arange(7, dtype=torch.uint8)
    assert len({lanes_digest(short), lanes_digest(short[:6]), lanes_digest(short + 1)}) == 3
    assert lanes_digest(plain.reshape(512, -1).T) == lanes_digest(plain.reshape(512, -1).T.contiguous())


def test_the_checksum_of_lanes_is_the_same_everywhere() -> None:
    """Would catch arithmetic that depends on the device, the library's version or the size of a chunk: fixed numbers."""
    words = torch.arange(-70_000, 500_000, dtype=torch.int32) * 7919
    lanes = [0, 0]
    mixers = ((-0x61C88647, -0x7A143595, -0x3D4D51CB), (0x27D4EB2F, 0x1B873593, -0x3361D2AF))

    def signed(number: int) -> int:
        return (number + 2**31) % 2**32 - 2**31

    for place, word in enumerate(words[::997].tolist()):
        for lane, (first, second, third) in enumerate(mixers):
            mixed = signed((word ^ signed(place * first)) * second)
            mixed = signed((mixed ^ (mixed >> 15)) * third)
            lanes[lane] += mixed ^ (mixed >> 13)
    assert lanes_digest(words[::997]) == "".join(f"{lane % 2**64:016x}" for lane in lanes)
