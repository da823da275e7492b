"""YUV to the model's input: colours of known levels, and real decoded video next to the way over RGB."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from torch import Tensor

from ops.preprocess import IMAGENET_MEAN, IMAGENET_STD, fit_content, normalise_content
from ops.yuv import ColourMatrix, yuv_to_input

COLORSPACES = {"bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709}


def levels(normalised: Tensor) -> Tensor:
    """Normalised values back to 0..255."""
    mean, std = (torch.tensor(three).view(3, 1, 1) for three in (IMAGENET_MEAN, IMAGENET_STD))
    return (normalised * std + mean) * 255


def flat(y: int, u: int, v: int, *, size: tuple[int, int] = (6, 8)) -> list[Tensor]:
    half = (-(-size[0] // 2), -(-size[1] // 2))
    shapes = (size, half, half)
    return [
        torch.full(shape, value, dtype=torch.uint8) for shape, value in zip(shapes, (y, u, v), strict=True)
    ]


@pytest.mark.parametrize(
    ("yuv", "matrix", "full_range", "rgb"),
    [
        ((16, 128, 128), "bt709", False, (0, 0, 0)),
        ((235, 128, 128), "bt601", False, (255, 255, 255)),
        ((126, 128, 128), "bt2020", False, (128.1, 128.1, 128.1)),
        ((77, 128, 128), "bt601", True, (77, 77, 77)),
        # Red of each matrix as its standard rounds it to 8 bits.
        ((81, 90, 240), "bt601", False, (255, 0, 0)),
        ((63, 102, 240), "bt709", False, (255, 0, 0)),
        ((74, 97, 240), "bt2020", False, (255, 0, 0)),
        ((76, 85, 255), "bt601", True, (254, 0, 0)),
        ((54, 99, 255), "bt709", True, (254, 0, 0)),
        ((145, 54, 34), "bt601", False, (0, 255, 0)),
        ((32, 240, 118), "bt709", False, (0, 0, 255)),
        ((4, 128, 128), "bt709", False, (0, 0, 0)),  # blacker than black is black
        ((250, 16, 240), "bt709", False, (255, 220, 40)),  # out of gamut: clamped, not wrapped
    ],
)
def test_known_levels_give_known_colours(
    yuv: tuple[int, int, int], matrix: ColourMatrix, full_range: bool, rgb: tuple[float, float, float]
) -> None:
    output, _ = yuv_to_input(flat(*yuv), matrix=matrix, full_range=full_range, height=6, width=8)
    got = levels(output)
    assert (got - got[:, :1, :1]).abs().max() < 1e-3
    assert got.min() > -1e-3
    assert got.max() < 255.001
    if yuv[0] == 250:
        assert got[0, 0, 0] == pytest.approx(255, abs=1e-3)
    else:
        assert (got[:, 0, 0] - torch.tensor(rgb)).abs().max() < 2.5


def decoded(
    height: int, width: int, matrix: ColourMatrix, full_range: bool, *, nv12: bool = False
) -> tuple[list[Tensor], np.ndarray[Any, np.dtype[np.uint8]]]:
    """Planes of a picture that went through H.264, and the RGB that PyAV makes of it."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 17), np.cos(y / 13), np.sin((x + y) / 29)]
    image = (128 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
    space, levels_of = COLORSPACES[matrix], ColorRange.JPEG if full_range else ColorRange.MPEG
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace = space
        stream.codec_context.color_range = levels_of
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=space, dst_color_range=levels_of)
        container.mux([*stream.encode(frame), *stream.encode()])
    file.seek(0)
    with av.open(file) as container:
        picture = next(container.decode(video=0))
    assert (picture.colorspace, picture.color_range) == (space, levels_of)
    planes = [
        torch.tensor(np.frombuffer(plane, np.uint8)).view(plane.height, plane.line_size)[:, : plane.width]
        for plane in picture.planes
    ]
    if nv12:
        planes = [planes[0], torch.stack(planes[1:], dim=-1)]
    return planes, picture.to_ndarray(format="rgb24", threads=1)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("size", [(480, 640), (250, 420)])
def test_equals_the_way_over_rgb_on_decoded_video(
    size: tuple[int, int], matrix: ColourMatrix, full_range: bool
) -> None:
    planes, rgb = decoded(*size, matrix, full_range, nv12=size[0] == 250)
    output, fit = yuv_to_input(planes, matrix=matrix, full_range=full_range, height=192, width=320)
    content, expected_fit = fit_content(rgb, height=192, width=320)
    assert fit == expected_fit
    assert output.dtype == torch.float32
    difference = levels(output) - levels(normalise_content(content, fit))
    inside = difference[:, : fit.content_height, : fit.content_width]
    # swscale's tables round down, and so does the mean of these differences: measured 3.4 at most, 1.27 in
    # the mean (full range 2.7 and 0.79).
    assert inside.abs().max() < 4
    assert inside.abs().mean() < 1.6
    # A wrong matrix or range is off by far more.
    other: ColourMatrix = "bt709" if matrix == "bt601" else "bt601"
    for wrong in ((other, full_range), (matrix, not full_range)):
        far, _ = yuv_to_input(planes, matrix=wrong[0], full_range=wrong[1], height=192, width=320)
        assert (levels(far) - levels(output)).abs().max() > 12
    assert not output[:, fit.content_height :].any()
    assert not output[:, :, fit.content_width :].any()


@pytest.mark.parametrize(
    ("source", "model"),
    [
        ((720, 1280), (192, 320)),  # two halves, then nothing
        ((1080, 1920), (192, 320)),  # two halves, then 1.5 linearly
        ((90, 160), (192, 320)),  # enlarged
        ((121, 203), (48, 60)),  # odd: by area
        ((481, 853), (192, 320)),
        ((3, 400), (16, 32)),  # to a row
        ((1, 1), (5, 7)),
        ((48, 64), (48, 64)),
        ((722, 1282), (180, 320)),  # a half, then two and a bit by area
    ],
)
def test_the_filter_is_that_of_the_way_over_rgb(source: tuple[int, int], model: tuple[int, int]) -> None:
    """Grey of full range is its own RGB: only the roundings of each resize are between the two."""
    generator = torch.Generator().manual_seed(0)
    luma = torch.randint(256, source, generator=generator, dtype=torch.uint8)
    planes = [luma, *flat(0, 128, 128, size=source)[1:]]
    output, fit = yuv_to_input(planes, matrix="bt709", full_range=True, height=model[0], width=model[1])
    content, expected_fit = fit_content(
        np.repeat(luma.numpy()[:, :, None], 3, axis=2), height=model[0], width=model[1]
    )
    assert fit == expected_fit
    difference = (levels(output) - levels(normalise_content(content, fit))).abs()
    assert difference[:, : fit.content_height, : fit.content_width].max() < 1.6


def test_both_formats_and_any_line_size_give_the_same_and_stay_unchanged() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(256, (35, 51), generator=generator, dtype=torch.uint8)
    uv = torch.randint(256, (18, 26, 2), generator=generator, dtype=torch.uint8)
    padded = torch.zeros(35, 64, dtype=torch.uint8)
    padded[:, :51] = y
    kept = uv.clone()
    convert: dict[str, Any] = {"matrix": "bt2020", "full_range": False, "height": 16, "width": 20}
    one, _ = yuv_to_input([padded[:, :51], uv], **convert)
    other, _ = yuv_to_input([y, uv[..., 0].contiguous(), uv[..., 1].contiguous()], **convert)
    assert torch.equal(one, other)
    assert torch.equal(uv, kept)
    half, _ = yuv_to_input([y, uv], **convert, dtype=torch.float16)
    assert torch.equal(half, one.half())


U8 = torch.uint8


@pytest.mark.parametrize(
    "planes",
    [
        [],
        [torch.zeros(4, 6, dtype=U8)],
        [torch.zeros(4, 6, dtype=U8), torch.zeros(2, 3, dtype=U8)],
        [torch.zeros(4, 6, dtype=U8), torch.zeros(2, 3, dtype=U8), torch.zeros(2, 2, dtype=U8)],
        [torch.zeros(5, 7, dtype=U8), torch.zeros(2, 3, dtype=U8), torch.zeros(2, 3, dtype=U8)],
        [torch.zeros(4, 6, dtype=U8), torch.zeros(4, 6, 2, dtype=U8)],
        [torch.zeros(4, 6, 3, dtype=U8)],
        [torch.zeros(0, 6, dtype=U8), torch.zeros(0, 3, dtype=U8), torch.zeros(0, 3, dtype=U8)],
    ],
)
def test_what_is_no_picture_is_refused(planes: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"planes must be \(H, W\)"):
        yuv_to_input(planes, matrix="bt709", full_range=False, height=4, width=4)


def test_other_dtypes_and_matrices_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"planes must be uint8, got \[torch.int16"):
        yuv_to_input(
            [plane.short() for plane in flat(1, 2, 3)], matrix="bt709", full_range=True, height=4, width=4
        )
    matrix: Any = "bt470"
    with pytest.raises(ValueError, match="matrix must be one of bt601, bt709, bt2020, got 'bt470'"):
        yuv_to_input(flat(1, 2, 3), matrix=matrix, full_range=True, height=4, width=4)
