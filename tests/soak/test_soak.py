"""A minute of the soak (`make soak` runs it longer)."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak.soak import soak


@pytest.mark.timeout(200)
def test_a_minute_of_cameras_that_fail_leaves_nothing_behind(tmp_path: Path) -> None:
    soaked = soak(minutes=1.0, seed=1, folder=tmp_path)
    assert soaked.faults == []
    assert soaked.figures["reconnects"] > 20
    assert soaked.figures["published"] > 300
