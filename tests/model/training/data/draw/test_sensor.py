"""The camera's sensor: what compression does to colours."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.data.draw.sensor import expose
from model.training.data.scene.scenes import Look


@pytest.mark.parametrize("quality", [0, 60, 95])
def test_compression_keeps_red_red_and_blue_blue(quality: int) -> None:
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, :32] = (200, 40, 30)
    frame[:, 32:] = (20, 60, 180)
    look = Look(blur=0.0, noise=0.0, jpeg_quality=quality)
    filmed = expose(frame, look, gain=1.0, rng=np.random.default_rng(0), seconds=0.0, dim=None).astype(int)
    assert (filmed[:, :24, 0] > filmed[:, :24, 2] + 100).all()
    assert (filmed[:, 40:, 2] > filmed[:, 40:, 0] + 100).all()
