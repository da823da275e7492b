"""Write the golden frames: first, middle and last of four frozen street videos, as this machine renders them.

Run it from the root of the repository after the street set has changed on purpose, together with
`python -m model data-freeze --hashes`: `PYTHONPATH=. python tests/golden/street/make.py`.

One video each of a still and a moving camera, without and with JPEG compression: those whose first frame is
smallest as PNG among those with three actors at least. Should a platform's last bit of interpolation tip the
quantisation of the compressed ones, the other two still tell whether the rendering agrees.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training.data.frozen import NUM_FRAMES, NUM_VIDEOS, Split, frozen_scene, render_frozen
from model.training.data.scene.geometry import is_still
from model.training.data.scene.scenes import Scene

FOLDER = Path(__file__).resolve().parent
SPLITS: tuple[Split, ...] = ("val", "test")
FRAMES = (0, NUM_FRAMES // 2, NUM_FRAMES - 1)
MIN_ACTORS = 3
MAX_NOISE = 1.5
"""Grey levels; what has more is never small."""


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) RGB, as small as can be."""
    done, data = cv2.imencode(".png", image[..., ::-1], (cv2.IMWRITE_PNG_COMPRESSION, 9))
    assert done
    return data.tobytes()


def main() -> None:
    """Choose, write frames and index.json, tell the size of all."""
    for old in FOLDER.glob("*.png"):
        old.unlink()
    found: dict[tuple[bool, bool], tuple[int, Split, int]] = {}
    for split, index in ((split, index) for split in SPLITS for index in range(NUM_VIDEOS)):
        scene = frozen_scene("street", split, index)
        assert isinstance(scene, Scene)
        if len(scene.actors) >= MIN_ACTORS and scene.look.noise < MAX_NOISE:
            size = len(png(render_frozen("street", split, index, frames=FRAMES[:1]).images[0]))
            kind = (is_still(scene.camera), bool(scene.look.jpeg_quality))
            found[kind] = min(found.get(kind, (size, split, index)), (size, split, index))
    chosen = sorted((split, index) for _, split, index in found.values())
    total = 0
    videos = []
    for split, index in chosen:
        video = render_frozen("street", split, index, frames=FRAMES)
        names = [f"{split}_{index:03d}_{frame:02d}.png" for frame in FRAMES]
        for name, image in zip(names, video.images, strict=True):
            total += (FOLDER / name).write_bytes(png(image))
        row = {"split": split, "video": index, "sha256": video.sha256, "frames": list(FRAMES)}
        videos.append({**row, "files": names})
    (FOLDER / "index.json").write_text(json.dumps(videos, indent=1) + "\n", encoding="ascii")
    print(f"videos {chosen}: {total / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
