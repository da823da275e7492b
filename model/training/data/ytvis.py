"""Training clips from a data set in the YouTube-VIS JSON format: any that `model.evaluation` can read.

There are two ways to choose frames. "consecutive" takes every s-th frame, so that a clip has 5 to 12 frames a
second, as live windows have. "paper" is SeqFormer's: one frame, two neighbours within three frames of it, and
the others from anywhere in the video, in the order of time. Each frame is fitted into the model's size as in
a stream (aspect kept, content top left), and the cues are those of a stream of the same rate.

T frames, N instances, H × W pixels of the model's size, R cue planes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig
from model.errors import DatasetError
from model.evaluation.dataset import GroundTruth, MaskTrack, Video, read_ground_truth
from model.training.data.clip import TrainingClip
from model.training.data.cue_clips import clip_cues
from model.training.data.transforms import View, random_view
from model.training.options import Sampling
from ops.preprocess import IMAGENET_MEAN, Fit, fit_content, fit_size
from ops.rle import CropRLE

__all__ = ["YouTubeVisClips", "class_outputs", "paper_frames", "strides"]

CLIP_FPS = (5.0, 12.0)
"""Rates, in frames a second, that consecutive clips have where the video's rate allows."""

FPS = 6.0
"""Rate of the images of a file that does not tell (`info.fps`): YouTube-VIS has every fifth frame of 30."""

NEIGHBOURS = 3
"""Frames that the paper's two neighbours are away at most."""

PADDING = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
"""Grey levels of what no frame shows: 0 after normalisation, to the nearest level (0.01)."""

_TRIES = 8
_STANDARD_FOLDERS = ("", "images", "JPEGImages")

Image = NDArray[np.uint8]


class YouTubeVisClips:
    """Clip source over a data set; clip `index` depends on (seed, index) alone.

    images: the folder that file_names start from; None: the JSON's own, or `images` or `JPEGImages` in it.
    config: says the size that frames are fitted into, the cues and the class outputs. crop: height and width,
    in pixels of that size, of the part that a clip shows; None: all. fps: rate of the images; None: the
    file's `info.fps`, or 6. augment: show random views of the frames.
    Raises DatasetError for a file that cannot be read, is empty, contradicts itself or has an annotation
    without masks, for classes that the config does not have and for images that are not there; ValueError for
    another sampling, a crop larger than the model's size or a rate not above 0.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        config: ModelConfig,
        images: str | Path | None = None,
        seed: int = 0,
        crop: tuple[int, int] | None = None,
        sampling: Sampling = "consecutive",
        fps: float | None = None,
        augment: bool = True,
    ) -> None:
        if sampling not in get_args(Sampling):
            raise ValueError(f"sampling: {sampling!r} is not one of {get_args(Sampling)}")
        if crop is not None and (crop[0] > config.height or crop[1] > config.width):
            raise ValueError(f"crop {crop} is larger than the model's size {config.height}×{config.width}")
        self._path = Path(path)
        self._config, self._seed, self._crop = config, seed, crop
        self._sampling, self._augment = sampling, augment
        truth = read_ground_truth(self._path)
        if not truth.annotations:
            raise DatasetError(f"{path}: annotations is empty; there is nothing to learn from")
        self._fps = _file_fps(self._path) if fps is None else fps
        if not self._fps > 0:
            raise ValueError(f"fps={fps} must be above 0")
        self._outputs = class_outputs(truth, config)
        self._videos = list(truth.videos.values())
        self._tracks: dict[int, list[MaskTrack]] = {video.id: [] for video in self._videos}
        for track in truth.annotations:
            self._tracks[track.video_id].append(track)
        self._root = _find_images(self._path, self._videos, None if images is None else Path(images))

    def __len__(self) -> int:
        """Number of videos."""
        return len(self._videos)

    def check(self, num_frames: int) -> None:
        """Raise DatasetError, naming the video, where one is shorter than T frames."""
        for video in self._videos:
            if video.length < num_frames:
                raise DatasetError(
                    f"{self._path}: video {video.id} has {video.length} frames, a clip has {num_frames}; "
                    "lower num_frames of the stage, or leave the video out"
                )

    def __call__(self, index: int, *, num_frames: int) -> TrainingClip:
        """Clip `index`, T frames.

        Raises DatasetError for an image that cannot be read or has another size than its video, and for a
        video of fewer than T frames.
        """
        turn, place = divmod(index, len(self._videos))
        order = np.random.default_rng((self._seed, 1, turn)).permutation(len(self._videos))
        video = self._videos[int(order[place])]
        if video.length < num_frames:
            self.check(num_frames)
        random = np.random.default_rng((self._seed, 0, index))
        tracks = self._tracks[video.id]
        frames, stride = self._choose(video, num_frames, tracks, random)
        size = (video.height, video.width)
        view = random_view(size, random) if self._augment else View(slice(0, size[0]), slice(0, size[1]))

        def content(frame: int) -> Image:
            image = view.image(self._read(video, frame))
            return fit_content(image, height=self._config.height, width=self._config.width)[0]

        shown = {frame: content(frame) for frame in frames}
        fit = fit_size(*view.size, height=self._config.height, width=self._config.width)
        planes = None
        if self._config.cues:
            planes = self._cues(
                frames, stride, lambda frame: shown[frame] if frame in shown else content(frame)
            )
        tracks, masks, ignore = _masks(tracks, frames, view, fit, size)
        images = np.stack([_padded(shown[frame], fit, PADDING) for frame in frames])
        rows, columns = self._window(masks, fit, random)
        masks = masks[..., rows, columns]
        seen = masks.any(axis=(1, 2, 3))
        return TrainingClip(
            images=np.ascontiguousarray(images[:, rows, columns]),
            masks=np.ascontiguousarray(masks[seen]),
            labels=np.array(
                [self._outputs[tracks[place].category_id] for place in np.flatnonzero(seen)], np.int64
            ),
            cues=None if planes is None else _padded_planes(planes, fit)[..., rows, columns].copy(),
            ignore=None if ignore is None else np.ascontiguousarray(ignore[:, rows, columns]),
        )

    def _choose(
        self, video: Video, num_frames: int, tracks: Sequence[MaskTrack], random: np.random.Generator
    ) -> tuple[list[int], int]:
        """Frames of the clip and their stride; preferably such that some show an annotated instance."""
        allowed = strides(video.length, num_frames, fps=self._fps)
        for _ in range(_TRIES):
            stride = 1
            if self._sampling == "paper":
                frames = paper_frames(video.length, num_frames, random)
            else:
                stride = int(random.choice(allowed))
                first = int(random.integers(0, video.length - (num_frames - 1) * stride))
                frames = list(range(first, first + num_frames * stride, stride))
            if any(track.counts[frame] is not None for track in tracks for frame in frames):
                break
        return frames, stride

    def _window(self, masks: NDArray[np.bool_], fit: Fit, random: np.random.Generator) -> tuple[slice, slice]:
        """Rows and columns of the model's size that the clip shows, around a pixel of some instance."""
        height, width = (fit.height, fit.width) if self._crop is None else self._crop
        seen = np.argwhere(masks.any(axis=(0, 1)))
        middle = seen[random.integers(len(seen))] if len(seen) else (fit.content_height, fit.content_width)
        shift = random.uniform(0.2, 0.8, 2)
        top = int(np.clip(middle[0] - shift[0] * height, 0, fit.height - height))
        left = int(np.clip(middle[1] - shift[1] * width, 0, fit.width - width))
        return slice(top, top + height), slice(left, left + width)

    def _cues(
        self, frames: Sequence[int], stride: int, content: Callable[[int], Image]
    ) -> NDArray[np.float32]:
        """Planes (T, R, h, w) that a stream of every stride-th frame gives at these."""
        names, rate = self._config.cues, self._fps / stride
        if self._sampling == "paper":
            each = [clip_cues(names, content, first=frame, num_frames=1, fps=rate) for frame in frames]
            return np.concatenate(each)
        first, phase = divmod(frames[0], stride)
        return clip_cues(
            names,
            lambda place: content(phase + place * stride),
            first=first,
            num_frames=len(frames),
            fps=rate,
        )

    def _read(self, video: Video, frame: int) -> Image:
        file = self._root / video.file_names[frame]
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        where = f"{self._path}: video {video.id}, frame {frame}"
        if image is None:
            raise DatasetError(f"{where}: {file} cannot be read as an image; copy it again")
        if image.shape[:2] != (video.height, video.width):
            raise DatasetError(
                f"{where}: {file} is {image.shape[1]}×{image.shape[0]}, the video "
                f"{video.width}×{video.height}; masks and images must agree"
            )
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def strides(length: int, num_frames: int, *, fps: float) -> list[int]:
    """Strides s for which T frames of a video of `length` frames have CLIP_FPS frames a second.

    Where there is no such stride, or none that fits into the video, the nearest one that fits.
    """
    most = (length - 1) // (num_frames - 1) if num_frames > 1 else length
    low, high = int(np.ceil(fps / CLIP_FPS[1])), int(fps / CLIP_FPS[0])
    found = [stride for stride in range(max(1, low), high + 1) if stride <= most]
    return found or [max(1, min(most, low))]


def paper_frames(length: int, num_frames: int, random: np.random.Generator) -> list[int]:
    """T different frames of a video, ascending: one, two within NEIGHBOURS of it, the rest from anywhere."""
    key = int(random.integers(length))
    near = [
        frame for frame in range(max(0, key - NEIGHBOURS), min(length, key + NEIGHBOURS + 1)) if frame != key
    ]
    chosen = [key, *random.permutation(near)[: min(2, num_frames - 1)].tolist()]
    others = [frame for frame in range(length) if frame not in chosen]
    chosen += random.permutation(others)[: num_frames - len(chosen)].tolist()
    return sorted(int(frame) for frame in chosen)


def class_outputs(truth: GroundTruth, config: ModelConfig) -> dict[int, int]:
    """Class output of each annotated category id: 0 for the class list `object`, else by its name.

    Raises DatasetError, naming the category, where the config has no class of that name.
    """
    used = sorted({track.category_id for track in truth.annotations})
    if config.class_list == "object":
        return dict.fromkeys(used, 0)
    known = {
        category.name: output
        for output, category in enumerate(config.output_categories)
        if category is not None
    }
    outputs = {}
    for number in used:
        name = "_".join(truth.categories[number].lower().replace("-", " ").split())
        if name not in known:
            raise DatasetError(
                f"{truth.name}: category {number} ({truth.categories[number]!r}) is not in the class list "
                f"{config.class_list!r}; use network.class_list = 'object', or the data set's own list"
            )
        outputs[number] = known[name]
    return outputs


def _file_fps(path: Path) -> float:
    with path.open(encoding="utf-8") as file:
        info = json.load(file).get("info")
    fps = info.get("fps") if isinstance(info, dict) else None
    if fps is None:
        return FPS
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not fps > 0:
        raise DatasetError(f"{path}: info.fps must be a number above 0, got {fps!r}")
    return float(fps)


def _find_images(path: Path, videos: Sequence[Video], images: Path | None) -> Path:
    for video in videos:
        if not video.file_names:
            raise DatasetError(f"{path}: video {video.id} has no file_names; add the paths of its images")
    roots = [path.parent / name for name in _STANDARD_FOLDERS] if images is None else [images]
    root = next((each for each in roots if (each / videos[0].file_names[0]).is_file()), roots[0])
    for video in videos:
        for frame, name in enumerate(video.file_names):
            if not (root / name).is_file():
                raise DatasetError(
                    f"{path}: video {video.id}, frame {frame}: there is no image {root / name}; name the "
                    "folder that file_names start from (images)"
                )
    return root


def _masks(
    tracks: Sequence[MaskTrack], frames: Sequence[int], view: View, fit: Fit, size: tuple[int, int]
) -> tuple[list[MaskTrack], NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Tracks that are instances, their masks (N, T, H, W) and the crowds' pixels (T, H, W), None without."""
    instances = [track for track in tracks if not track.is_crowd]
    crowds = [track for track in tracks if track.is_crowd]
    masks = np.zeros((len(instances), len(frames), fit.height, fit.width), np.bool_)
    ignore = np.zeros((len(frames), fit.height, fit.width), np.bool_)
    for place, frame in enumerate(frames):
        for index, track in enumerate(instances):
            _draw(masks[index, place], track.counts[frame], view, fit, size)
        for track in crowds:
            _draw(ignore[place], track.counts[frame], view, fit, size)
    return instances, masks, ignore if crowds else None


def _draw(
    target: NDArray[np.bool_], counts: bytes | None, view: View, fit: Fit, size: tuple[int, int]
) -> None:
    """Add a mask of the source to one of the model's size (H, W): pixels that it covers by half."""
    if counts is None:
        return
    mask = CropRLE(0, 0, size[1], size[0], counts).decode_crop()
    # Resized as the image is, by the same code, so that both have their borders at the same pixels.
    seen = np.repeat(view.mask(mask)[..., None].astype(np.uint8) * 255, 3, axis=2)
    fitted, _ = fit_content(seen, height=fit.height, width=fit.width)
    target[: fit.content_height, : fit.content_width] |= fitted[..., 0] >= 128


def _padded(content: Image, fit: Fit, padding: Sequence[int]) -> Image:
    image = np.empty((fit.height, fit.width, 3), np.uint8)
    image[:] = padding
    image[: fit.content_height, : fit.content_width] = content
    return image


def _padded_planes(planes: NDArray[np.float32], fit: Fit) -> NDArray[np.float32]:
    """Planes (T, R, h, w) in the model's size, 0 outside of the content."""
    rows, columns = fit.height - planes.shape[2], fit.width - planes.shape[3]
    return np.pad(planes, ((0, 0), (0, 0), (0, rows), (0, columns)))
