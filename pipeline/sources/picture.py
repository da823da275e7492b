"""A decoder's pictures as arrays: RGB, or the planes as they are for a stream whose model takes these.

What the planes mean (matrix and range) is told here once, as `to_rgb` has FFmpeg take it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from pipeline.sources.sampling import PictureError
from pipeline.types import YuvPicture

if TYPE_CHECKING:
    from torch import Tensor

    from ops.yuv import ColourMatrix

_UNSPECIFIED = 2  # the number for "no colour matrix is told" (ITU-T H.273)
_HD_HEIGHT = 720
_MATRICES: dict[int, ColourMatrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}
"""By the numbers of H.273, of those that the model's preprocessing knows."""
_FULL_RANGE_FORMAT = "yuvj420p"  # FFmpeg's older name for yuv420p of full range
GPU_FORMAT = "cuda"
"""FFmpeg's name for the format of a picture that lies on a GPU."""
_FORMATS = ("yuv420p", _FULL_RANGE_FORMAT, "nv12")


def to_rgb(picture: av.VideoFrame, *, rotation: int = 0) -> NDArray[np.uint8]:
    """Convert a decoded picture to (H, W, 3) uint8 RGB and turn it `rotation` degrees clockwise.

    Raises PictureError where FFmpeg cannot convert it.
    """
    try:
        space = Colorspace.ITU709 if _is_untagged_hd(picture) else None
        # One thread: PyAV starts swscale's threads again for every picture, which costs more than it saves.
        image = np.asarray(
            picture.to_ndarray(format="rgb24", src_colorspace=space, threads=1), dtype=np.uint8
        )
    except (av.error.FFmpegError, ValueError) as error:
        what = f"{picture.width}x{picture.height} {picture.format.name}"
        raise PictureError(f"no RGB from {what}: {error}") from error
    if rotation:
        image = np.ascontiguousarray(np.rot90(image, -(rotation // 90)))
    return image


def to_planes(picture: av.VideoFrame) -> YuvPicture | None:
    """The decoder's planes of a picture of 8 bits in 4:2:0, not copied; None for other formats, and where it
    is tagged with a matrix that the model's preprocessing does not know.

    Of a picture that a GPU decoded and kept the planes are copied there (`copied_planes`).
    """
    if picture.color_range > ColorRange.JPEG or (matrix := _matrix(picture)) is None:
        return None
    if picture.format.name == GPU_FORMAT:
        return _on_gpu(picture, matrix)
    if picture.format.name not in _FORMATS:
        return None
    rows, columns = -(-picture.height // 2), -(-picture.width // 2)
    sizes = [(picture.height, picture.width), *[(rows, columns)] * 2]
    if picture.format.name == "nv12":
        sizes = [sizes[0], (rows, 2 * columns)]
    planes = [_lines(plane, *size) for plane, size in zip(picture.planes, sizes, strict=True)]
    if any(plane is None for plane in planes):
        return None
    whole = [plane for plane in planes if plane is not None]
    if picture.format.name == "nv12":
        whole[1] = whole[1].reshape(rows, columns, 2)
    full_range = picture.format.name == _FULL_RANGE_FORMAT or picture.color_range == ColorRange.JPEG
    return YuvPicture(tuple(whole), matrix=matrix, full_range=full_range, convert=partial(to_rgb, picture))


def _matrix(picture: av.VideoFrame) -> ColourMatrix | None:
    if picture.colorspace == _UNSPECIFIED:
        return "bt709" if _is_untagged_hd(picture) else "bt601"
    return _MATRICES.get(picture.colorspace)


def copied_planes(picture: av.VideoFrame) -> tuple[Tensor, Tensor]:
    """Copies of the planes of an NV12 picture where it lies, Y (H, W) and UV (H / 2, W / 2, 2), ready.

    The decoder writes its next pictures over them, so this is for the thread that decodes.
    """
    import torch  # of those who have a GPU

    luma, chroma = (torch.from_dlpack(plane).clone() for plane in picture.planes)  # type: ignore[attr-defined]
    if luma.is_cuda:
        torch.cuda.current_stream(luma.device).synchronize()
    return luma, chroma


def nv12_picture(planes: tuple[Tensor, Tensor], *, colours: tuple[int, int]) -> av.VideoFrame:
    """A picture of the host of copied planes; colours: the numbers of its matrix and its range."""
    luma, chroma = (plane.cpu().numpy() for plane in planes)
    rows, columns = luma.shape
    picture = av.VideoFrame.from_ndarray(
        np.concatenate([luma, chroma.reshape(rows // 2, columns)]), format="nv12"
    )
    picture.colorspace, picture.color_range = colours
    return picture


def _on_gpu(picture: av.VideoFrame, matrix: ColourMatrix) -> YuvPicture | None:
    """The planes of a picture that a GPU keeps; None where they are not NV12 of an even size."""
    software = picture.sw_format
    if software is None or software.name != "nv12" or picture.width % 2 or picture.height % 2:
        return None
    planes = copied_planes(picture)
    colours = (picture.colorspace, picture.color_range)
    return YuvPicture(
        planes,
        matrix=matrix,
        full_range=picture.color_range == ColorRange.JPEG,
        convert=lambda: to_rgb(nv12_picture(planes, colours=colours)),
    )


def clockwise_rotation(picture: av.VideoFrame) -> int:
    """Return the quarter turns that the container asks for, in degrees clockwise: 0, 90, 180 or 270."""
    return round(-picture.rotation / 90) % 4 * 90


def _is_untagged_hd(picture: av.VideoFrame) -> bool:
    """Many cameras tag nothing; HD is BT.709 then, as players assume, and FFmpeg would take BT.601."""
    return picture.colorspace == _UNSPECIFIED and picture.height >= _HD_HEIGHT


def _lines(plane: av.video.plane.VideoPlane, rows: int, num_bytes: int) -> NDArray[np.uint8] | None:
    """A view of a plane without what pads its lines, (rows, num_bytes); None where it is upside down."""
    if plane.line_size < num_bytes:
        return None
    data = np.frombuffer(memoryview(plane), np.uint8)
    lines: NDArray[np.uint8] = data[: rows * plane.line_size].reshape(rows, plane.line_size)
    return lines[:, :num_bytes]
