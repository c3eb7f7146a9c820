"""What the tests of more than one process share."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


def required(module: str) -> ModuleType:
    """An optional library. Without it the calling test file is skipped; where the environment variable LMM_R1_REQUIRE names
    it (as in "ray,vllm"), it fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if module in os.environ.get("LMM_R1_REQUIRE", "").split(","):
            pytest.fail(f"LMM_R1_REQUIRE names {module}, which cannot be imported: {error}", pytrace=False)
        pytest.skip(f"needs the library {module} (make test-distributed installs it)", allow_module_level=True)
