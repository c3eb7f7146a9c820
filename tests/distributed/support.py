"""What the tests of processes beside this one share."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


def required(module: str) -> None:
    """Skip a test file whose package is not here; where LMM_R1_REQUIRE names it (make test-distributed), fail instead."""
    if find_spec(module) is None:
        if module in os.environ.get("LMM_R1_REQUIRE", "").split(","):
            pytest.fail(f"{module} is not installed", pytrace=False)
        pytest.skip(f"{module} is not installed (make test-distributed installs it)", allow_module_level=True)
