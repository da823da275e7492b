"""Turn the outlines drawn by hand (outlines.json) into the labels of the benchmark (street_clip.json).

    python tests/benchmarks/real/build.py [--check]

Each shot of the clip becomes a video of a YouTube-VIS JSON whose frames are those that the pipeline's cadence
keeps at 10 fps; `frame_indices` are their indices in the clip. What of an outline is visible: its polygons,
less those of the shot's occluders (fence, post) and of the instances it is behind. An `ignore` region becomes
an annotation with iscrowd 1, less every instance.

Every instance has a name of COCO's and its category id. Whoever rides has the name of a person and `rides`, the name of
the vehicle: the two are one instance here and two in COCO, so that either name is right. The first
`num_tuning_frames` of a video are those that numbers may be chosen on, the others those that metrics are reported of;
this was fixed by shot before any weights that know COCO saw the clip.

A shot with `held_still` gives a second video: the same frames with the camera's own motion undone, the matrix
of a frame taking a place in the held picture to its place in the frame (x, y → a·x + b·y + c, d·x + e·y + f).

A pixel belongs to a polygon when its centre lies inside (even-odd); (0, 0) is the picture's top left corner,
so that pixel (x, y) has its centre at (x + 0.5, y + 0.5).

H, W picture; one row of `segmentations`, `bboxes` (x, y, width, height), `areas`, `heights` and `polygons` per
frame, null where nothing is visible.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from model.class_lists import categories
from ops.rle import encode_crop

OUTLINES = Path(__file__).with_name("outlines.json")
LABELS = Path(__file__).with_name("street_clip.json")

MIN_AREA = 40
"""Pixels; an instance of which less shows between fence and post counts as not visible."""

ANY_CATEGORY = 1
"""Of what is ignored; masks are compared without categories."""

CATEGORY_IDS = {category.name: category.id for category in categories("coco")}


def fill(polygon: Sequence[float], height: int, width: int) -> NDArray[np.bool_]:
    """Rasterise one polygon, x0, y0, x1, y1, … in pixels; (height, width)."""
    corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    inside = np.zeros((height, width), dtype=np.bool_)
    top, bottom = (
        min(max(0, int(np.ceil(y - 0.5))), height) for y in (corners[:, 1].min(), corners[:, 1].max())
    )
    toggles = np.zeros((bottom - top, width + 1), dtype=np.uint8)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        # Rows whose centre lies in [y0, y1): each is crossed once, and the pixels right of the crossing flip.
        rows = np.arange(max(top, int(np.ceil(y0 - 0.5))), min(bottom, int(np.ceil(y1 - 0.5))))
        crossings = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        toggles[rows - top, np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)] ^= 1
    inside[top:bottom] = np.bitwise_xor.accumulate(toggles, axis=1)[:, :width] == 1
    return inside


def union(polygons: Sequence[Sequence[float]], height: int, width: int) -> NDArray[np.bool_]:
    """Rasterise several polygons into one mask."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for polygon in polygons:
        mask |= fill(polygon, height, width)
    return mask


def visible_masks(shot: dict[str, Any], frame: int, height: int, width: int) -> dict[int, NDArray[np.bool_]]:
    """Masks of a frame by instance id, of the visible pixels; instances that hardly show are left out."""
    key = str(frame)
    outlined = {row["id"]: union(row["outlines"].get(key, []), height, width) for row in shot["instances"]}
    covered = union(shot["occluders"].get(key, []), height, width)
    shown = {}
    for row in shot["instances"]:
        mask = outlined[row["id"]] & ~covered
        for nearer in row.get("behind", []):
            mask &= ~outlined[nearer]
        if mask.sum() >= MIN_AREA:
            shown[row["id"]] = mask
    return shown


def hold_still(shot: dict[str, Any]) -> dict[str, Any]:
    """The shot as a still camera would have seen it: every outline taken back by its frame's matrix."""
    held = shot["held_still"]
    inverse = {
        key: np.linalg.inv(np.vstack([np.reshape(matrix, (2, 3)), [0, 0, 1]]))
        for key, matrix in held["frames"].items()
    }

    def moved(columns: dict[str, Any]) -> dict[str, Any]:
        return {key: [_move(each, inverse[key]) for each in rows] for key, rows in columns.items()}

    ignore = {key: [*shot["ignore"].get(key, []), *held["ignore"].get(key, [])] for key in held["frames"]}
    return {
        **shot,
        "name": f"{shot['name']} held still",
        "camera": "held still",
        "instances": [{**row, "outlines": moved(row["outlines"])} for row in shot["instances"]],
        "occluders": moved(shot["occluders"]),
        "ignore": moved(ignore),
        "transforms": [held["frames"][str(frame)] for frame in shot["frames"]],
    }


def _move(polygon: Sequence[float], matrix: NDArray[np.float64]) -> list[float]:
    """Take a polygon through a (3, 3) affine matrix."""
    corners = np.asarray(polygon, np.float64).reshape(-1, 2) @ matrix[:2, :2].T + matrix[:2, 2]
    places: list[float] = corners.ravel().round(2).tolist()
    return places


def build(outlines: dict[str, Any]) -> dict[str, Any]:
    """The YouTube-VIS JSON of the outlines."""
    height, width = outlines["height"], outlines["width"]
    shots = outlines["shots"]
    shots = [*shots, *(hold_still(shot) for shot in shots if "held_still" in shot)]
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, shot in enumerate(shots, start=1):
        frames = shot["frames"]
        videos.append(
            {
                "id": number,
                "name": shot["name"],
                "camera": shot["camera"],
                "num_tuning_frames": len(frames) if shot["half"] == "tuning" else 0,
                "height": height,
                "width": width,
                "length": len(frames),
                "file_names": [f"{frame:05d}" for frame in frames],
                "frame_indices": frames,
                "first_frame": shot["first"],
                "last_frame": shot["last"],
                "transforms": shot.get("transforms"),
            }
        )
        masks = [visible_masks(shot, frame, height, width) for frame in frames]
        for row in shot["instances"]:
            visible = [each.get(row["id"]) for each in masks]
            polygons = [row["outlines"].get(str(frame)) for frame in frames]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": number,
                    "category_id": CATEGORY_IDS[row["name"]],
                    "iscrowd": 0,
                    "instance_id": row["id"],
                    "kind": row["kind"],
                    "name": row["name"],
                    **({"rides": row["rides"]} if "rides" in row else {}),
                    **_columns(visible, polygons, height, width),
                }
            )
        ignored = []
        for frame, instances in zip(frames, masks, strict=True):
            mask = union(shot["ignore"].get(str(frame), []), height, width)
            for instance in instances.values():
                mask &= ~instance
            ignored.append(mask if mask.any() else None)
        if any(mask is not None for mask in ignored):
            polygons = [shot["ignore"].get(str(frame)) for frame in frames]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": number,
                    "category_id": ANY_CATEGORY,
                    "iscrowd": 1,
                    "kind": "ignore",
                    **_columns(ignored, polygons, height, width),
                }
            )
    return {
        "info": outlines["info"],
        "licenses": outlines["licenses"],
        "categories": category_rows(annotations),
        "videos": videos,
        "annotations": annotations,
    }


def category_rows(annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The categories that annotations have, as a YouTube-VIS JSON lists them."""
    used = {each["category_id"] for each in annotations}
    return [{"id": number, "name": name} for name, number in CATEGORY_IDS.items() if number in used]


def _columns(
    masks: Sequence[NDArray[np.bool_] | None], polygons: Sequence[Any], height: int, width: int
) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {
        name: [] for name in ("segmentations", "bboxes", "areas", "heights", "polygons")
    }
    for mask, outline in zip(masks, polygons, strict=True):
        if mask is None:
            for values in columns.values():
                values.append(None)
            continue
        crop = encode_crop(mask, 0, 0)
        rle = crop.to_coco(height, width)
        columns["segmentations"].append({"size": rle["size"], "counts": rle["counts"].decode("ascii")})
        columns["bboxes"].append([crop.x, crop.y, crop.width, crop.height])
        columns["areas"].append(int(mask.sum()))
        columns["heights"].append(crop.height)
        columns["polygons"].append(outline)
    return {"height": height, "width": width, **columns}


def dump(labels: dict[str, Any]) -> str:
    """JSON with one line per entry of a column, so that an edited outline shows as a few changed lines."""
    lines = json.dumps(labels, indent=1, ensure_ascii=False)
    return _join_numbers(lines) + "\n"


def _join_numbers(text: str) -> str:
    """Put lists that hold no further list of names on one line."""
    out: list[str] = []
    held: list[str] = []
    for line in text.split("\n"):
        stripped = line.strip()
        number = stripped.rstrip(",").lstrip("-").replace(".", "", 1).isdigit()
        if number:
            held.append(stripped)
        elif held:
            out[-1] += " ".join(held) + stripped
            held = []
        else:
            out.append(line)
    return "\n".join(out)


def main() -> int:
    """Write the labels, or with --check tell whether they are those of the outlines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where they differ")
    args = parser.parse_args()
    made = dump(build(json.loads(OUTLINES.read_text(encoding="utf-8"))))
    if args.check:
        return int(not LABELS.exists() or LABELS.read_text(encoding="utf-8") != made)
    LABELS.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
