"""From the planes of a YUV 4:2:0 picture to the model's input, without the RGB picture in between.

The readable form, which `ops/kernels/preprocess.cu` computes in one pass on a GPU. It equals decoding to RGB
and `fit_image`, but for roundings to whole levels on the way: the same placement, the same filter (by halves,
then linear or by area), the same colours. On decoded H.264 the two differ by 3.4 levels of 255 at most and by
1.3 in the mean, since swscale rounds down (`tests/ops/test_yuv.py`).

A chroma sample counts for the 2×2 luma samples it was taken of, as in swscale's conversion, by which pictures
come to RGB elsewhere in this project. H.264 sites chroma at the left of the two by default (MPEG-2's siting):
so chroma lies half a luma pixel too far right, here and there alike, an eighth of a pixel at a quarter of the
size.

Dimensions: H × W luma samples, h × w chroma samples (half of them, rounded up).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ops.preprocess import IMAGENET_MEAN, IMAGENET_STD, Fit, fit_size

__all__ = ["ColourMatrix", "YuvFilter", "YuvPlanes", "YuvToRgb", "yuv_to_input"]

ColourMatrix = Literal["bt601", "bt709", "bt2020"]
"""BT.2020 with non-constant luminance."""

_LUMA_OF = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
"""Shares of red and blue in luma (ITU-R BT.601-7, BT.709-6, BT.2020-2)."""


def yuv_to_input(
    planes: Sequence[Tensor],
    *,
    matrix: ColourMatrix,
    full_range: bool,
    height: int,
    width: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Fit]:
    """Convert, resize, normalise and pad a picture to (3, height, width) RGB in `dtype`; and its Fit.

    planes are uint8 of 8 bits, rows as far apart as they like: of yuv420p Y (H, W), U (h, w) and V (h, w), of
    NV12 Y (H, W) and UV (h, w, 2). full_range says that levels are 0..255, not 16..235 (chroma 16..240).
    Computed in float32, in float64 for that dtype.

    Raises ValueError for other shapes or dtypes, and for an unknown matrix.
    """
    picture = YuvPlanes.of(planes)
    colours = YuvToRgb.of(matrix, full_range=full_range)
    fit = fit_size(*picture.luma.shape, height=height, width=width)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    rgb = _rgb(picture, colours, precision)  # (3, H, W)
    content = _resize(rgb, YuvFilter.of(fit), fit)  # (3, content_height, content_width)
    mean, std = (content.new_tensor(three).view(3, 1, 1) for three in (IMAGENET_MEAN, IMAGENET_STD))
    output = torch.zeros(3, height, width, dtype=dtype, device=content.device)
    output[:, : fit.content_height, : fit.content_width] = (content / 255 - mean) / std
    return output, fit


class YuvPlanes(NamedTuple):
    """The three planes of a picture; of NV12 the two chroma planes are views of one."""

    luma: Tensor
    """(H, W) uint8."""
    blue: Tensor
    """(h, w) uint8, U."""
    red: Tensor
    """(h, w) uint8, V."""

    @classmethod
    def of(cls, planes: Sequence[Tensor]) -> "YuvPlanes":
        """Views of the planes of yuv420p or NV12. Raises ValueError for what is neither."""
        shapes = [tuple(plane.shape) for plane in planes]
        if any(plane.dtype != torch.uint8 for plane in planes):
            raise ValueError(f"planes must be uint8, got {[plane.dtype for plane in planes]}")
        if shapes and len(shapes[0]) == 2 and min(shapes[0]) > 0:
            chroma = (-(-shapes[0][0] // 2), -(-shapes[0][1] // 2))
            if shapes[1:] == [chroma, chroma]:
                return cls(*planes)
            if shapes[1:] == [(*chroma, 2)]:
                return cls(planes[0], planes[1][:, :, 0], planes[1][:, :, 1])
        raise ValueError(
            "planes must be (H, W), (h, w), (h, w) of yuv420p or (H, W), (h, w, 2) of NV12, "
            f"with h and w half of H and W, rounded up; got {shapes}"
        )


@dataclass(frozen=True)
class YuvToRgb:
    """Levels Y, U, V of 0..255 to red, green, blue of 0..255, before these are clamped."""

    luma_scale: float
    luma_shift: float
    """Y' = Y · luma_scale + luma_shift."""
    red_of_red: float
    """Red is Y' + red_of_red · (V − 128)."""
    green_of_blue: float
    green_of_red: float
    """Green is Y' + green_of_blue · (U − 128) + green_of_red · (V − 128)."""
    blue_of_blue: float
    """Blue is Y' + blue_of_blue · (U − 128)."""

    @classmethod
    def of(cls, matrix: ColourMatrix, *, full_range: bool) -> "YuvToRgb":
        """Raises ValueError for an unknown matrix."""
        if matrix not in _LUMA_OF:
            raise ValueError(f"matrix must be one of {', '.join(_LUMA_OF)}, got {matrix!r}")
        red, blue = _LUMA_OF[matrix]
        green = 1 - red - blue
        luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
        return cls(
            luma_scale=luma,
            luma_shift=0.0 if full_range else -16 * luma,
            red_of_red=2 * (1 - red) * chroma,
            green_of_blue=-2 * (1 - blue) * blue / green * chroma,
            green_of_red=-2 * (1 - red) * red / green * chroma,
            blue_of_blue=2 * (1 - blue) * chroma,
        )


@dataclass(frozen=True)
class YuvFilter:
    """How `ops.preprocess` resizes a source to its content: means of fold × fold pixels, the cells, and those
    by area where more than two cells make a pixel, else linearly."""

    fold: int
    cells_high: int
    """Rows of cells, H / fold."""
    cells_wide: int
    """Columns of cells, W / fold."""
    area: bool

    @classmethod
    def of(cls, fit: Fit) -> "YuvFilter":
        """The filter of a placement."""
        height, width = fit.content_height, fit.content_width
        fold, rows, columns = 1, fit.source_height, fit.source_width
        while rows % 2 == 0 and columns % 2 == 0 and rows >= 2 * height and columns >= 2 * width:
            fold, rows, columns = 2 * fold, rows // 2, columns // 2
        return cls(fold, rows, columns, area=rows >= 2 * height or columns >= 2 * width)


def _rgb(picture: YuvPlanes, colours: YuvToRgb, precision: torch.dtype) -> Tensor:
    """(3, H, W) of 0..255, not rounded."""
    H, W = picture.luma.shape
    luma = picture.luma.to(precision) * colours.luma_scale + colours.luma_shift
    u, v = (
        (plane.to(precision) - 128).repeat_interleave(2, 0).repeat_interleave(2, 1)[:H, :W]
        for plane in (picture.blue, picture.red)
    )
    red = luma + colours.red_of_red * v
    green = luma + colours.green_of_blue * u + colours.green_of_red * v
    blue = luma + colours.blue_of_blue * u
    return torch.stack([red, green, blue]).clamp(0, 255)


def _resize(rgb: Tensor, taps: YuvFilter, fit: Fit) -> Tensor:
    """(3, H, W) to (3, content_height, content_width)."""
    fold = taps.fold
    cells = rgb.view(3, taps.cells_high, fold, taps.cells_wide, fold).mean((2, 4))
    down = _weights(taps.cells_high, fit.content_height, area=taps.area).to(cells)
    across = _weights(taps.cells_wide, fit.content_width, area=taps.area).to(cells)
    return down @ cells @ across.T


def _weights(num_cells: int, size: int, *, area: bool) -> Tensor:
    """(size, num_cells) float64: what each cell counts for each of `size` pixels; rows sum to 1."""
    cell = torch.arange(num_cells, dtype=torch.float64)
    pixel = torch.arange(size, dtype=torch.float64)[:, None]
    ratio = num_cells / size
    if area:
        begin, end = torch.maximum(cell, pixel * ratio), torch.minimum(cell + 1, (pixel + 1) * ratio)
        return (end - begin).clamp(min=0) / ratio
    # A pixel beyond the centre of the last cell takes that cell alone.
    position = ((pixel + 0.5) * ratio - 0.5).clamp(0, num_cells - 1)
    return (1 - (position - cell).abs()).clamp(min=0)
