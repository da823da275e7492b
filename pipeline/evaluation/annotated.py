"""A data set in YouTube-VIS JSON as videos of frames: the images next to the file, each frame exactly once.

Nothing is dropped: a frame that is missing, damaged or of another size than its video is an error, because
every frame of the ground truth counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import DatasetError
from model.evaluation.clips import first_videos
from model.evaluation.dataset import GroundTruth, Video, read_ground_truth
from pipeline.sources.cadence import Cadence
from pipeline.sources.images import read_image
from pipeline.sources.sampling import PictureError, Sampler
from pipeline.stats import Ledger
from pipeline.types import Frame

_STANDARD_FOLDER = "JPEGImages"
_STANDARD_NAME = "annotations.json"


@dataclass(frozen=True, eq=False)
class AnnotatedVideos:
    """Videos with their ground truth."""

    truth: GroundTruth
    read: Callable[[Video, int], NDArray[np.uint8]]
    """(video, frame from 0) → its picture, (H, W, 3) uint8 RGB; raises DatasetError."""

    def source(self, video: Video) -> str:
        """Return the source id of a video's frames."""
        return f"video{video.id}"

    def frames(self, video: Video, *, fps: float) -> Iterator[Frame]:
        """Yield all frames of a video as a source of `fps` frames a second would; raises DatasetError."""
        sampler = Sampler(self.source(video), cadence=Cadence("source"), ledger=Ledger(), cuts=False)
        sampler.clock.fps = fps
        time_base = 1 / Fraction(fps).limit_denominator(1001)
        for number in range(video.length):
            image = self.read(video, number)
            if image.shape[:2] != (video.height, video.width):
                raise DatasetError(
                    f"{self.truth.name}: video {video.id} is {video.width}×{video.height}, but the image of "
                    f"frame {number} is {image.shape[1]}×{image.shape[0]}; masks and images must agree"
                )
            for item in sampler.add(partial(np.asarray, image), pts=number, time_base=time_base):
                if isinstance(item, Frame):
                    yield item


def open_annotated(
    data: str | Path, *, images: str | Path | None = None, limit: int | None = None
) -> AnnotatedVideos:
    """Open a data set: a JSON file, or a folder with annotations.json or with a single other one.

    `images` is the folder that file_names start from; without it the JSON's own folder, or `JPEGImages` in
    it. Only the first `limit` videos are taken. Raises DatasetError for files that are missing or damaged.
    """
    path = _find_json(Path(data))
    truth = read_ground_truth(path)
    if limit is not None:
        truth = first_videos(truth, limit)
    root = _find_images(path.parent, truth) if images is None else Path(images)
    for video in truth.videos.values():
        if not video.file_names:
            raise DatasetError(f"{path}: video {video.id} has no file_names; add the paths of its images")
        first = root / video.file_names[0]
        if not first.is_file():
            raise DatasetError(
                f"{path}: video {video.id}: there is no image {first}; "
                "name the folder that file_names start from (--images)"
            )

    def read(video: Video, number: int) -> NDArray[np.uint8]:
        file = root / video.file_names[number]
        try:
            return read_image(file)
        except PictureError as error:
            raise DatasetError(f"{path}: video {video.id}, frame {number}: {error} ({file})") from None

    return AnnotatedVideos(truth, read)


def _find_json(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / _STANDARD_NAME).is_file():
        return path / _STANDARD_NAME
    found = sorted(path.glob("*.json"))
    if len(found) != 1:
        names = ", ".join(each.name for each in found) or "none"
        raise DatasetError(f"{path}: holds not one .json file but {names}; name the file")
    return found[0]


def _find_images(folder: Path, truth: GroundTruth) -> Path:
    for video in truth.videos.values():
        for root in (folder, folder / _STANDARD_FOLDER):
            if video.file_names and (root / video.file_names[0]).is_file():
                return root
    return folder
