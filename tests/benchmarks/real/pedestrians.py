"""Labels of people before a still camera: silhouettes against the median of a whole clip (pedestrians.json).

    python tests/benchmarks/real/pedestrians.py --clip vtest.avi

The clip is OpenCV's sample `vtest.avi` (795 frames of 768×576 at 10 fps): /usr/share/doc/opencv-doc/examples/data
of Debian's package opencv-doc, samples/data of OpenCV's repository. One frame a second is labelled. What differs from
the median of all frames is somebody; who stands apart from others, whole in the picture and shaped like a person, gets
an id for as long as that holds without a break. Everything else that differs (groups that touch, people behind the
lamp post's sign, cut off or half hidden, leaves) is ignored, and so do the two parked vehicles. All labelled
frames were looked at; what was wrong is in REJECTED.

H, W picture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.real.build import ANY_CATEGORY, CATEGORY_IDS, category_rows
from benchmarks.real.people_boxes import TUNING_BEFORE, parked_vehicles

from ops.rle import encode_crop

LABELS = Path(__file__).with_name("pedestrians.json")
SHA256 = "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf"
FPS = 10
VIDEO = 101
"""Its id, next to those of the other clip."""
EVERY = 10
"""Frames between two labelled ones."""
FIRST = 30
"""The first labelled frame: a stream's background is warm by then."""
REJECTED: dict[int, tuple[tuple[int, int], ...]] = {
    30: ((402, 219),),
    40: ((403, 207),),
    50: ((448, 202),),
    130: ((615, 239),),
    140: (
        (695, 263),
        (443, 198),
    ),
    160: ((681, 130),),
    210: ((446, 183),),
    260: ((642, 151),),
    280: ((423, 269),),
    300: ((322, 206),),
    310: ((271, 204),),
    340: ((340, 220),),
    460: ((529, 243),),
    470: ((425, 264),),
    480: ((419, 243),),
    630: ((131, 174),),
    680: ((514, 186),),
    690: ((458, 171),),
    710: (
        (518, 173),
        (231, 208),
    ),
    720: ((492, 217),),
    730: (
        (306, 213),
        (731, 70),
    ),
    740: (
        (752, 72),
        (586, 230),
    ),
    750: ((396, 222),),
    760: (
        (256, 239),
        (473, 227),
    ),
    790: (
        (250, 197),
        (436, 300),
    ),
}
"""Frame → points (x, y) in the boxes of silhouettes that are not one whole person by eye."""

Mask = NDArray[np.bool_]
_THRESHOLD = 28
_LEAST_AREA = 120
_LEAST_HEIGHT, _MOST_HEIGHT = 30, 140
_MIN_IOU = 0.25
_LONGEST_GAP = 2
_SHORTEST = 5


class Silhouette(NamedTuple):
    mask: Mask
    box: tuple[int, int, int, int]
    """x, y, width, height."""
    alone: bool
    """Shaped like one whole person."""


def check(path: Path) -> None:
    """Raises ValueError where the file is not the clip that was labelled, FileNotFoundError where there is none."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise ValueError(
            f"{path} is not the vtest.avi that was labelled: take samples/data/vtest.avi of OpenCV's"
            " repository, or Debian's package opencv-doc"
        )


def read_clip(path: Path) -> list[NDArray[np.uint8]]:
    """The frames (H, W, 3) BGR.

    Raises ValueError where the file is another one.
    """
    check(path)
    with av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]


def silhouettes(frame: NDArray[np.uint8], background: NDArray[np.uint8]) -> list[Silhouette]:
    """Everything in the frame that the background does not show."""
    height, width = frame.shape[:2]
    soft = [cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.int16) for image in (frame, background)]
    differs = (np.abs(soft[0] - soft[1]).max(axis=2) > _THRESHOLD).astype(np.uint8)
    differs = cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    differs = cv2.morphologyEx(differs, cv2.MORPH_CLOSE, np.ones((9, 5), np.uint8))
    differs = cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, where, stats, _ = cv2.connectedComponentsWithStats(differs)
    found = []
    for index in range(1, count):
        x, y, w, h, area = (int(value) for value in stats[index])
        if area < _LEAST_AREA:
            continue
        filled = (where == index).astype(np.uint8)
        outlines, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(filled, outlines, -1, 1, -1)
        inside = x > 2 and y > 2 and x + w < width - 2 and y + h < height - 2
        shaped = 0.2 < w / h < 0.62 and 0.3 < area / (w * h) < 0.85 and _LEAST_HEIGHT <= h < _MOST_HEIGHT
        found.append(Silhouette(filled.astype(np.bool_), (x, y, w, h), inside and shaped))
    return found


def build(path: Path) -> dict[str, Any]:
    """The labels as YouTube-VIS JSON with `frame_indices`, as the other real clip's."""
    frames = read_clip(path)
    background = np.median(np.stack(frames[::8]), axis=0).astype(np.uint8)
    height, width = background.shape[:2]
    by_frame = [silhouettes(frame, background) for frame in frames]
    tracks = _link(by_frame)
    indices = list(range(FIRST, len(frames), EVERY))
    places = {index: place for place, index in enumerate(indices)}
    rows: list[tuple[bool, dict[int, Silhouette]]] = []
    crowd: dict[int, list[Silhouette]] = {index: [] for index in indices}
    for index in indices:
        crowd[index] += [each for each in by_frame[index] if not each.alone]
    for track in tracks:
        kept = {index: each for index, each in track.items() if index in places}
        for index in [index for index, each in kept.items() if _rejected(index, each)]:
            crowd[index].append(kept.pop(index))
        if len(track) < _SHORTEST:
            for index, each in kept.items():
                crowd[index].append(each)
        elif kept:
            rows.append((False, kept))
    most = max(len(each) for each in crowd.values())
    rows += [
        (True, {index: each[depth] for index, each in crowd.items() if len(each) > depth})
        for depth in range(most)
    ]
    rows.append((True, _parked(rows, indices, (height, width))))
    annotations = []
    for number, (nobody, shown) in enumerate(rows, 1):
        columns: dict[str, list[Any]] = {
            key: [None] * len(indices) for key in ("segmentations", "bboxes", "areas", "heights")
        }
        for index, each in shown.items():
            x, y, w, h = each.box
            rle = encode_crop(each.mask[y : y + h, x : x + w], x, y).to_coco(height, width)
            place = places[index]
            columns["segmentations"][place] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
            columns["bboxes"][place], columns["areas"][place] = [x, y, w, h], int(each.mask.sum())
            columns["heights"][place] = h
        annotations.append(
            {
                "id": VIDEO * 1000 + number,
                "video_id": VIDEO,
                "category_id": ANY_CATEGORY if nobody else CATEGORY_IDS["person"],
                "iscrowd": int(nobody),
                **({} if nobody else {"instance_id": VIDEO * 1000 + number}),
                "kind": "ignore" if nobody else "person",
                **({} if nobody else {"name": "person"}),
                "height": height,
                "width": width,
                **columns,
            }
        )
    video = {
        "id": VIDEO,
        "name": "people",
        "camera": "pedestrians",
        "num_tuning_frames": sum(index < TUNING_BEFORE for index in indices),
        "height": height,
        "width": width,
        "length": len(indices),
        "file_names": [f"{index:05d}" for index in indices],
        "frame_indices": indices,
        "transforms": None,
    }
    return {
        "info": {
            "description": "Silhouettes of people in OpenCV's sample vtest.avi (795 frames, 768×576, 10 fps) against"
            " its median. The clip itself is not part of this project and not covered by this licence.",
            "version": "1.0",
            "cadence_fps": FPS,
            "clip": "vtest.avi",
        },
        "licenses": [{"id": 1, "name": "Apache-2.0"}],
        "categories": category_rows(annotations),
        "videos": [video],
        "annotations": annotations,
    }


def _parked(
    rows: list[tuple[bool, dict[int, Silhouette]]], indices: list[int], size: tuple[int, int]
) -> dict[int, Silhouette]:
    """Frame → the boxes of both parked vehicles, less everybody before them."""
    boxes = np.zeros(size, np.bool_)
    for x0, y0, x1, y1 in parked_vehicles():
        boxes[y0:y1, x0:x1] = True
    parked = {}
    for index in indices:
        mask = boxes.copy()
        for _, shown in rows:
            if index in shown:
                mask &= ~shown[index].mask
        x, y, wide, tall = cv2.boundingRect(mask.astype(np.uint8))
        parked[index] = Silhouette(mask, (x, y, wide, tall), False)
    return parked


def _rejected(index: int, each: Silhouette) -> bool:
    left, top, wide, tall = each.box
    return any(left <= x < left + wide and top <= y < top + tall for x, y in REJECTED.get(index, ()))


def _link(by_frame: list[list[Silhouette]]) -> list[dict[int, Silhouette]]:
    """Frame → silhouette of everybody who stands apart, by overlap from frame to frame."""
    tracks: list[dict[int, Silhouette]] = []
    for index, found in enumerate(by_frame):
        taken: set[int] = set()
        for each in found:
            if not each.alone:
                continue
            best, best_iou = -1, _MIN_IOU
            for number, track in enumerate(tracks):
                last = max(track)
                if number in taken or index - last > _LONGEST_GAP:
                    continue
                iou = (track[last].mask & each.mask).sum() / (track[last].mask | each.mask).sum()
                if iou > best_iou:
                    best, best_iou = number, float(iou)
            if best < 0:
                tracks.append({})
                best = len(tracks) - 1
            tracks[best][index] = each
            taken.add(best)
    return tracks


def main() -> int:
    """Write the labels again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clip", required=True, type=Path, metavar="FILE", help="OpenCV's sample vtest.avi")
    labels = build(parser.parse_args().clip)
    LABELS.write_text(json.dumps(labels, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    real = [each for each in labels["annotations"] if not each["iscrowd"]]
    shown = sum(row is not None for each in real for row in each["segmentations"])
    print(f"{LABELS}: {labels['videos'][0]['length']} frames, {len(real)} ids, {shown} people's frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
