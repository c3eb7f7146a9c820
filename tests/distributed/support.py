"""What the tests of processes beside this one share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec

import pytest
import torch


def required(module: str) -> None:
    """Skip a test file whose package is not here; where LMM_R1_REQUIRE names it (make test-distributed), fail instead."""
    if find_spec(module) is None:
        if module in os.environ.get("LMM_R1_REQUIRE", "").split(","):
            pytest.fail(f"{module} is not installed", pytrace=False)
        pytest.skip(f"{module} is not installed (make test-distributed installs it)", allow_module_level=True)


def gap(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """Relative L2 error over all weights together, by the names of the first."""
    a, b = (torch.cat([found[name].detach().flatten().double() for name in sorted(ours)]) for found in (ours, theirs))
    return float((a - b).norm() / b.norm())
