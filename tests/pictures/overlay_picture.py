"""Cut frames out of a recording and write them side by side as one picture (docs/images/*.jpg).

Run it from the root of the repository after `make run`:
`python tests/pictures/overlay_picture.py out/demo.mp4 docs/images/demo.jpg --frames 40`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

GAP = 4
"""White pixels between two frames."""
QUALITY = 90


def picked(path: Path, indices: list[int]) -> list[NDArray[np.uint8]]:
    """(H, W, 3) BGR of the frames with these indices, in the order asked for.

    Raises ValueError for an index that the recording does not have.
    """
    found: dict[int, NDArray[np.uint8]] = {}
    number = -1
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in indices:
                found[number] = frame.to_ndarray(format="bgr24")
    missing = sorted(set(indices) - set(found))
    if missing:
        raise ValueError(f"{path} has frames 0..{number}, asked for {missing}")
    return [found[index] for index in indices]


def main() -> None:
    """Write the picture and tell its size."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("recording", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--frames", type=int, nargs="+", required=True, metavar="INDEX")
    options = parser.parse_args()
    frames = picked(options.recording, options.frames)
    gap = np.full((frames[0].shape[0], GAP, 3), 255, np.uint8)
    parts = [part for frame in frames for part in (gap, frame)][1:]
    done, data = cv2.imencode(".jpg", np.concatenate(parts, axis=1), (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
    assert done
    options.picture.write_bytes(data.tobytes())
    print(f"{options.picture}: {len(data) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
