"""The frozen videos: val and test of each set, 200 videos of 40 frames, 192×320, 10 frames/s.

Seeds are fixed and outside those that training draws: training scenes have seeds below 2⁶³, frozen ones from
there on. The hashes of all descriptions are published in frozen_hashes.json; a change of what a set draws
shows there. `write_frozen` renders a split on the CPU into a folder: PNG frames and YouTube-VIS JSON.

Dimensions: T frames, H × W pixels.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from model.class_lists import categories
from model.errors import MissingPackageError
from model.training.data.instances import MIN_VISIBLE
from model.training.data.render import SceneRenderer
from model.training.data.scene.scenes import Scene
from model.training.data.scene.sprite_scenes import DECOY, SpriteScene, draw_sprite_scene
from model.training.data.sprites import SpriteRenderer
from model.training.data.street import draw_scene
from ops.files import written_whole

__all__ = [
    "FrozenSet",
    "FrozenVideo",
    "Split",
    "frozen_hashes",
    "frozen_scene",
    "published_hashes",
    "render_frozen",
    "write_frozen",
    "write_hashes",
]

FrozenSet = Literal["street", "sprites"]
Split = Literal["val", "test"]

NUM_VIDEOS = 200
NUM_FRAMES = 40
HEIGHT, WIDTH = 192, 320
FPS = 10.0
HASHES = Path(__file__).parent / "frozen_hashes.json"
ANNOTATIONS = "annotations.json"

_FIRST_SEED = 1 << 63
_SPLIT_SEEDS = 1_000_000
"""Seeds kept for each split."""
_SLIVER = 4
"""Fewer visible pixels than this are no mask: the instance is null in that frame."""
_PNG_LEVEL = 1


class _Set(NamedTuple):
    class_list: str
    draw: Callable[..., Scene | SpriteScene]
    """Seed and, by keyword, height, width, num_frames and fps → description."""
    renderer: Callable[[Any], Callable[[int], tuple[NDArray[np.uint8], NDArray[np.uint16]]]]
    """Description → frame index → image and identities."""


# Street scenes without photographs: this code alone makes these videos.
_SETS = {
    "street": _Set("object", draw_scene, SceneRenderer),
    "sprites": _Set("sprites", draw_sprite_scene, SpriteRenderer),
}


@dataclass(frozen=True)
class FrozenVideo:
    """One rendered video."""

    images: NDArray[np.uint8]
    """(T, H, W, 3) RGB."""
    ids: NDArray[np.uint16]
    """(T, H, W) 0 for nobody, i + 1 for labels[i]."""
    labels: tuple[int, ...]
    """Index of the class of each of the scene's actors; negative for one that is ignored."""
    sha256: str
    """Of the description."""


def frozen_seed(split: Split, index: int) -> int:
    """Seed of video `index` (from 0) of a split.

    Raises ValueError for an unknown split or an index outside 0..199.
    """
    splits = get_args(Split)
    if split not in splits:
        raise ValueError(f"split must be one of {', '.join(splits)}, got {split!r}")
    if not 0 <= index < NUM_VIDEOS:
        raise ValueError(f"video must be 0 to {NUM_VIDEOS - 1}, got {index}")
    return _FIRST_SEED + splits.index(split) * _SPLIT_SEEDS + index


def frozen_scene(name: FrozenSet, split: Split, index: int) -> Scene | SpriteScene:
    """The description of video `index` (from 0). Raises ValueError for an unknown set, split or video."""
    return _set(name).draw(
        frozen_seed(split, index), height=HEIGHT, width=WIDTH, num_frames=NUM_FRAMES, fps=FPS
    )


def render_frozen(name: FrozenSet, split: Split, index: int, *, frames: tuple[int, ...] = ()) -> FrozenVideo:
    """Render video `index` (from 0), or those of its frames. Raises ValueError as `frozen_scene`."""
    scene = frozen_scene(name, split, index)
    renderer = _set(name).renderer(scene)
    rendered = [renderer(frame) for frame in frames or range(NUM_FRAMES)]
    return FrozenVideo(
        images=np.stack([image for image, _ in rendered]),
        ids=np.stack([ids for _, ids in rendered]),
        labels=tuple(actor.label for actor in scene.actors),
        sha256=scene.sha256(),
    )


def _set(name: str) -> _Set:
    if name not in _SETS:
        raise ValueError(f"set must be one of {', '.join(_SETS)}, got {name!r}")
    return _SETS[name]


def write_frozen(
    name: FrozenSet,
    split: Split,
    folder: str | Path,
    *,
    num_videos: int = NUM_VIDEOS,
    workers: int = 1,
    progress: Callable[[int], object] | None = None,
) -> Path:
    """Render the first `num_videos` of a split into a folder; return its YouTube-VIS JSON.

    Frames are frames/00000/00.png and so on next to the JSON. The JSON is written last: a folder that has it
    is complete. `workers` processes render; `progress` is told the number of videos that are done.
    Raises ValueError for an unknown set or split or a number outside 1..200, OSError for a file that cannot
    be written, MissingPackageError without pycocotools.
    """
    frozen_seed(split, 0)
    classes = categories(_set(name).class_list)
    if not 1 <= num_videos <= NUM_VIDEOS:
        raise ValueError(f"num_videos must be 1 to {NUM_VIDEOS}, got {num_videos}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    _coco()
    folder = Path(folder)
    path = folder / ANNOTATIONS
    path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video, rows in _written(partial(_write_video, name, split, folder), num_videos, workers):
        videos.append(video)
        annotations += [{"id": len(annotations) + place, **row} for place, row in enumerate(rows, start=1)]
        if progress is not None:
            progress(len(videos))
    tree = {
        "info": {"description": f"{name} {split}, rendered: nothing in it was filmed", "fps": FPS},
        "videos": videos,
        "categories": [{"id": category.id, "name": category.name} for category in classes],
        "annotations": annotations,
    }
    _write_text(path, json.dumps(tree, separators=(",", ":")))
    return path


_Written = tuple[dict[str, Any], list[dict[str, Any]]]


def _written(write: Callable[[int], _Written], num_videos: int, workers: int) -> Iterator[_Written]:
    """The rows of each video in order, made in this process or in others."""
    if workers == 1:
        yield from map(write, range(num_videos))
        return
    # Spawned, not forked: the caller may have started threads of torch or OpenCV.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,))
    try:
        yield from pool.map(write, range(num_videos))
    finally:
        pool.shutdown(cancel_futures=True)


def _write_video(name: FrozenSet, split: Split, folder: Path, index: int) -> _Written:
    """Write the frames of a video; return its row and those of its annotations, which lack ids."""
    video = render_frozen(name, split, index)
    inside = Path("frames") / f"{index:05d}"
    (folder / inside).mkdir(parents=True, exist_ok=True)
    names = []
    for number, image in enumerate(video.images):
        done, data = cv2.imencode(".png", image[..., ::-1], (cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL))
        if not done:
            raise OSError(f"cannot encode frame {number} of video {index} as PNG")
        names.append((inside / f"{number:02d}.png").as_posix())
        (folder / names[-1]).write_bytes(data.tobytes())
    row = {
        "id": index + 1,
        "height": HEIGHT,
        "width": WIDTH,
        "length": len(names),
        "file_names": names,
        "sha256": video.sha256,
    }
    return row, annotation_rows(video, video_id=index + 1, class_list=_set(name).class_list)


def annotation_rows(video: FrozenVideo, *, video_id: int, class_list: str) -> list[dict[str, Any]]:
    """One row an instance in the YouTube-VIS format, without id; null in frames that do not show it."""
    areas = np.stack([np.bincount(ids.ravel(), minlength=len(video.labels) + 1) for ids in video.ids])
    outputs = categories(class_list)
    rows: list[dict[str, Any]] = []
    for number, label in enumerate(video.labels, start=1):
        if label <= DECOY or areas[:, number].max() < MIN_VISIBLE:
            continue
        shown = areas[:, number] >= _SLIVER
        masks = [ids == number if there else None for ids, there in zip(video.ids, shown, strict=True)]
        rows.append(
            {
                "video_id": video_id,
                "category_id": outputs[label].id,
                "iscrowd": 0,
                "height": video.ids.shape[1],
                "width": video.ids.shape[2],
                "length": len(masks),
                "segmentations": [None if mask is None else _rle(mask) for mask in masks],
                "bboxes": [None if mask is None else _bbox_xywh(mask) for mask in masks],
                "areas": [
                    int(area) if there else None for area, there in zip(areas[:, number], shown, strict=True)
                ],
            }
        )
    return rows


def _rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    text: bytes = _coco().encode(np.asfortranarray(mask.view(np.uint8)))["counts"]
    return {"size": list(mask.shape), "counts": text.decode("ascii")}


def _bbox_xywh(mask: NDArray[np.bool_]) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [
        float(columns[0]),
        float(rows[0]),
        float(columns[-1] + 1 - columns[0]),
        float(rows[-1] + 1 - rows[0]),
    ]


def _coco() -> Any:
    try:
        from pycocotools import mask
    except ImportError as exc:
        raise MissingPackageError("pycocotools is not installed: pip install pycocotools") from exc
    return mask


def frozen_hashes(name: FrozenSet, split: Split, *, num_videos: int = NUM_VIDEOS) -> list[str]:
    """SHA-256 of the descriptions that this code draws, video by video."""
    return [frozen_scene(name, split, index).sha256() for index in range(num_videos)]


def published_hashes(path: Path = HASHES) -> dict[str, dict[str, list[str]]]:
    """Set → split → the hashes as published. Raises OSError where the file is missing."""
    tree: dict[str, dict[str, list[str]]] = json.loads(path.read_text(encoding="ascii"))
    return tree


def write_hashes(path: Path = HASHES) -> Path:
    """Publish the hashes of all sets as this code draws them: from then on they are other videos."""
    tree = {
        name: {split: frozen_hashes(name, split) for split in get_args(Split)} for name in get_args(FrozenSet)
    }
    _write_text(path, json.dumps(tree, indent=0) + "\n")
    return path


def _write_text(path: Path, text: str) -> None:
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="ascii")
