"""Ground truth and results in the YouTube-VIS JSON formats, read and checked.

Ground truth: `videos` (id, width, height, length, file_names), `categories` (id, name), `annotations` (id,
video_id, category_id, iscrowd, segmentations: per frame a COCO RLE, polygons or null; areas where given).
Results: a list of {video_id, category_id, score, segmentations}. Everything is checked here, once: code that
gets these types need not check again. Errors name the file, the entry and the remedy.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import DatasetError
from model.evaluation.masks import mask_areas

logger = logging.getLogger(__name__)

MAX_PIXELS = 1 << 26
"""Pixels of the largest frame, twice 8K: a bad size must not make the reader allocate."""

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Video:
    """One video of the ground truth."""

    id: int
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    length: int
    """Frames."""
    file_names: tuple[str, ...] = ()
    """Per frame, relative to the images' root; empty where the file names none."""


@dataclass(frozen=True, eq=False)
class MaskTrack:
    """One object through one video: a mask or None for each of its frames."""

    id: int
    """Annotation id; of results their place in the file, from 1."""
    video_id: int
    category_id: int
    counts: tuple[bytes | None, ...] = field(repr=False)
    """(T,) full-frame COCO compressed run lengths."""
    areas: NDArray[np.int64] = field(repr=False)
    """(T,) pixels, 0 where there is no mask."""
    mean_area: float
    """Mean area in pixels over the frames that have one, 0 where none has: what area ranges look at."""
    score: float = 1.0
    """0..1; of results only."""
    is_crowd: bool = False
    """A region that is neither to be found nor wrong to be found; of ground truth only."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """A data set."""

    videos: dict[int, Video]
    """By id, rising."""
    categories: dict[int, str]
    """Id → name, rising."""
    annotations: tuple[MaskTrack, ...]
    """In the order of the file."""
    name: str = "ground truth"
    """For messages: the file."""


def read_ground_truth(source: str | Path | Json) -> GroundTruth:
    """Read a data set from a JSON file or from what such a file holds.

    Raises DatasetError for a file that cannot be read, is damaged or contradicts itself.
    """
    tree, name = _load(source, "ground truth")
    if not isinstance(tree, Mapping):
        raise DatasetError(f"{name}: must be an object with videos, categories and annotations, got a list")
    videos: dict[int, Video] = {}
    for place, row in enumerate(_rows(tree, "videos", name)):
        video = _video(row, f"{name}: videos[{place}]")
        if video.id in videos:
            raise DatasetError(f"{name}: video id {video.id} stands twice; ids must differ")
        videos[video.id] = video
    if not videos:
        raise DatasetError(f"{name}: videos is empty; a data set needs at least one video")
    categories: dict[int, str] = {}
    for place, row in enumerate(_rows(tree, "categories", name)):
        where = f"{name}: categories[{place}]"
        categories[_integer(row, "id", where)] = str(row.get("name", ""))
    if not categories:
        raise DatasetError(f"{name}: categories is empty; name at least one")
    annotations = []
    seen: set[int] = set()
    for place, row in enumerate(_rows(tree, "annotations", name)):
        annotation = _annotation(row, f"{name}: annotations[{place}]", videos, categories)
        if annotation.id in seen:
            raise DatasetError(f"{name}: annotation id {annotation.id} stands twice; ids must differ")
        seen.add(annotation.id)
        annotations.append(annotation)
    return GroundTruth(
        dict(sorted(videos.items())), dict(sorted(categories.items())), tuple(annotations), name
    )


def read_results(source: str | Path | Sequence[Json], ground_truth: GroundTruth) -> tuple[MaskTrack, ...]:
    """Read results for a data set, in the order of the file; an empty list is none.

    Results of categories that the data set does not have are left out and counted in the log, as the
    canonical evaluation does. Raises DatasetError for a file that cannot be read or is damaged, for a video
    that the data set does not have, and for masks that do not fit their video.
    """
    tree, name = _load(source, "results")
    if not isinstance(tree, list | tuple):
        raise DatasetError(f"{name}: must be a list of results, got {_kind(tree)}; is it the ground truth?")
    unknown = sorted(
        {
            str(row["video_id"])
            for row in tree
            if isinstance(row, Mapping)
            and "video_id" in row
            and not _is_known(row["video_id"], ground_truth.videos)
        }
    )
    if unknown:
        raise DatasetError(
            f"{name}: results for videos that {ground_truth.name} does not have: video_id "
            f"{', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}; evaluate them against their own "
            "ground truth"
        )
    results, num_foreign = [], 0
    for place, row in enumerate(tree):
        where = f"{name}: result {place}"
        if not isinstance(row, Mapping):
            raise DatasetError(f"{where}: must be an object, got {_kind(row)}")
        if _integer(row, "category_id", where) not in ground_truth.categories:
            num_foreign += 1
            continue
        video = ground_truth.videos[_integer(row, "video_id", where)]
        score = row.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise DatasetError(f"{where} (video {video.id}): score must be a finite number, got {score!r}")
        counts, areas = _masks(row, f"{where} (video {video.id})", video)
        results.append(
            MaskTrack(
                id=place + 1,
                video_id=video.id,
                category_id=int(row["category_id"]),
                counts=counts,
                areas=areas,
                mean_area=mean_area(areas.tolist()),
                score=float(score),
            )
        )
    if num_foreign:
        logger.warning(
            "%s: %d of %d results have a category that %s does not have, and are left out",
            name,
            num_foreign,
            len(tree),
            ground_truth.name,
        )
    return tuple(results)


def mean_area(areas: Sequence[float | None]) -> float:
    """Return the mean of the areas that are neither None nor 0, and 0 where there is none."""
    seen = [area for area in areas if area]
    return float(np.mean(seen)) if seen else 0.0


def _load(source: object, kind: str) -> tuple[Any, str]:
    """Return the content and a name for messages; a source that is no path counts as loaded already."""
    if not isinstance(source, str | Path):
        return source, kind
    name = str(source)
    try:
        with Path(source).open(encoding="utf-8") as file:
            return json.load(file), name
    except OSError as error:
        raise DatasetError(f"{kind} {name}: {error.strerror or error}; give a JSON file") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{kind} {name}: is no valid JSON ({error}); is the file complete?") from None


def _rows(tree: Json, key: str, name: str) -> list[Json]:
    rows = tree.get(key)
    if not isinstance(rows, list):
        raise DatasetError(f"{name}: {key} is missing or no list; is it a YouTube-VIS annotation file?")
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DatasetError(f"{name}: {key}[{place}] must be an object, got {_kind(row)}")
    return rows


def _video(row: Json, where: str) -> Video:
    number = _integer(row, "id", where)
    where = f"{where} (id {number})"
    height, width = _integer(row, "height", where), _integer(row, "width", where)
    names = row.get("file_names") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
        raise DatasetError(f"{where}: file_names must be a list of paths")
    length = _integer(row, "length", where) if "length" in row else len(names)
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise DatasetError(f"{where}: {width}×{height} pixels are no size of a frame")
    if length < 1:
        raise DatasetError(f"{where}: length must be at least 1 frame, got {length}")
    if names and len(names) != length:
        raise DatasetError(f"{where}: length is {length}, but file_names has {len(names)} entries")
    return Video(number, height, width, length, tuple(names))


def _annotation(
    row: Json, where: str, videos: Mapping[int, Video], categories: Mapping[int, str]
) -> MaskTrack:
    number = _integer(row, "id", where)
    where = f"{where} (id {number})"
    video_id, category_id = _integer(row, "video_id", where), _integer(row, "category_id", where)
    if video_id not in videos:
        raise DatasetError(f"{where}: video_id {video_id} is not among videos; add the video or leave it out")
    if category_id not in categories:
        raise DatasetError(f"{where}: category_id {category_id} is not among categories; add the category")
    counts, areas = _masks(row, where, videos[video_id])
    if not any(text is not None for text in counts):
        raise DatasetError(f"{where}: has no mask in any frame; remove the annotation or add its masks")
    given = row.get("areas")
    if given is not None and not (
        isinstance(given, list) and len(given) == len(counts) and all(map(_is_area, given))
    ):
        raise DatasetError(f"{where}: areas must hold a number or null for each of {len(counts)} frames")
    is_crowd = row.get("iscrowd", 0)
    if is_crowd not in (0, 1):
        raise DatasetError(f"{where}: iscrowd must be 0 or 1, got {is_crowd!r}")
    return MaskTrack(
        id=number,
        video_id=video_id,
        category_id=category_id,
        counts=counts,
        areas=areas,
        # The canonical evaluation goes by the file's areas, which some data sets counted at another size.
        mean_area=mean_area(areas.tolist() if given is None else given),
        is_crowd=bool(is_crowd),
    )


def _masks(row: Json, where: str, video: Video) -> tuple[tuple[bytes | None, ...], NDArray[np.int64]]:
    masks = row.get("segmentations")
    if not isinstance(masks, list):
        raise DatasetError(f"{where}: has no segmentations; give a mask or null for each frame")
    if len(masks) != video.length:
        raise DatasetError(
            f"{where}: segmentations has {len(masks)} entries, video {video.id} has {video.length} frames; "
            "give a mask or null for each"
        )
    counts = tuple(
        _counts(mask, f"{where}: segmentations[{frame}]", video) for frame, mask in enumerate(masks)
    )
    try:
        return counts, mask_areas(counts, height=video.height, width=video.width)
    except ValueError as error:
        raise DatasetError(f"{where}: segmentations, {error}; write it again") from None


def _counts(mask: object, where: str, video: Video) -> bytes | None:
    """Return the compressed counts of one frame's RLE (compressed or not) or polygons; None for nothing."""
    if not mask:
        return None
    if isinstance(mask, list):
        return _polygon_counts(mask, where, video)
    if not isinstance(mask, Mapping):
        raise DatasetError(f"{where}: must be a COCO RLE, polygons or null, got {_kind(mask)}")
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [video.height, video.width]:
        raise DatasetError(
            f"{where}: size must be [height, width] of video {video.id}, "
            f"{[video.height, video.width]}, got {size!r}"
        )
    if isinstance(counts, str):
        if not counts.isascii():
            raise DatasetError(f"{where}: counts hold a character that is not COCO RLE; write the mask again")
        return counts.encode("ascii")
    if isinstance(counts, bytes):
        return counts
    if isinstance(counts, list):
        return _uncompressed_counts(counts, where, video)
    raise DatasetError(f"{where}: counts must be COCO run lengths, got {_kind(counts)}")


def _uncompressed_counts(counts: list[Any], where: str, video: Video) -> bytes:
    from pycocotools import mask as coco

    numbers = all(isinstance(each, int) and 0 <= each <= MAX_PIXELS for each in counts)
    if not numbers or sum(counts) != video.height * video.width:
        raise DatasetError(f"{where}: counts must be run lengths that sum to {video.height * video.width}")
    rle = coco.frPyObjects({"size": [video.height, video.width], "counts": counts}, video.height, video.width)
    return bytes(rle["counts"])


def _polygon_counts(polygons: list[Any], where: str, video: Video) -> bytes:
    from pycocotools import mask as coco

    for polygon in polygons:
        good = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
        if not good or not all(_is_coordinate(each) for each in polygon):
            raise DatasetError(
                f"{where}: a polygon must be [x0, y0, x1, y1, …] with at least 3 points, in pixels"
            )
    return bytes(coco.merge(coco.frPyObjects(polygons, video.height, video.width))["counts"])


def _is_coordinate(value: object) -> bool:
    # Far outside any frame pycocotools would draw for minutes.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e5


def _is_area(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= MAX_PIXELS)


def _integer(row: Json, key: str, where: str) -> int:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DatasetError(f"{where}: {key} must be an integer, got {value!r}")
    return value


def _is_known(video_id: object, videos: Mapping[int, Video]) -> bool:
    # What is no integer is said to be so later, with its place.
    return not isinstance(video_id, int) or isinstance(video_id, bool) or video_id in videos


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a string", type(None): "null"}.get(
        type(value), type(value).__name__
    )
