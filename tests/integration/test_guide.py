"""The guide's Python does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from support.video import write_video

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


def block(word: str) -> str:
    """The guide's one block of Python that holds a word."""
    (code,) = [
        each for each in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL) if word in each
    ]
    return str(code)


def test_the_model_of_your_own_runs(tmp_path: Path) -> None:
    for number in range(4):
        image = np.zeros((90, 160, 3), np.uint8)
        image[20:60, 30 + 10 * number : 70 + 10 * number] = 255
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    code = block("class Bright").replace('"clip.mp4"', repr(str(tmp_path)))
    scope: dict[str, Any] = {}
    exec(code.rpartition("\n\n")[0], scope)
    stream = scope["Stream"](scope["StreamConfig"](source=str(tmp_path)), predictor=scope["Bright"]())
    for number, result in enumerate(stream):
        (instance,) = result.instances
        assert (instance.track_id, instance.class_name) == (1, "lamp")
        x1, y1, x2, y2 = instance.box_xyxy
        assert abs(np.array([x1, y1, x2, y2]) - [30 + 10 * number, 20, 70 + 10 * number, 60]).max() <= 3
    exec(code, {})


def test_the_loop_from_python_runs(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=3)
    config = tmp_path / "mine.yaml"
    config.write_text(f"source: {{inputs: {{mine: {str(clip)!r}}}}}\nmodel: {{engine: eager}}\n")
    exec(block("load_config").replace('"mine.yaml"', repr(str(config))), {})
