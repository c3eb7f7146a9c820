"""The switch that turns a missing optional library from a skip into a failure."""

from __future__ import annotations

import pytest

from tests.distributed.support import required


def test_a_missing_library_skips_unless_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a test run that was meant to try Ray and quietly tried nothing."""
    required("json")
    monkeypatch.setenv("LMM_R1_REQUIRE", "another")
    with pytest.raises(pytest.skip.Exception, match="no_such_library"):
        required("no_such_library")
    monkeypatch.setenv("LMM_R1_REQUIRE", "another,no_such_library")
    with pytest.raises(pytest.fail.Exception, match="no_such_library"):
        required("no_such_library")
