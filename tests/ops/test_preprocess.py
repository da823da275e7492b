"""Fitting a frame into the model's input: placement, values, aliasing, and boxes mapped there and back."""

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ops import Fit, fit_image
from ops.preprocess import IMAGENET_MEAN, IMAGENET_STD, fit_size

SOURCES = [(720, 1280), (1080, 1920), (480, 640), (481, 853), (100, 60), (192, 320), (1, 1), (3, 2000)]


def smooth_image(height: int, width: int) -> NDArray[np.uint8]:
    """A different slope in each channel: linear and area filters agree on it."""
    y, x = np.mgrid[:height, :width]
    ramps = [200 * x / width + 20, 200 * y / height + 30, 100 * (x / width + y / height) + 10]
    return np.stack(ramps, axis=-1).astype(np.uint8)


def normalised(image: NDArray[np.floating]) -> NDArray[np.floating]:
    result: NDArray[np.floating] = ((image / 255 - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)
    return result


@pytest.mark.parametrize("size", SOURCES)
def test_content_is_top_left_normalised_and_the_rest_is_zero(size: tuple[int, int]) -> None:
    image = smooth_image(*size)
    output, fit = fit_image(image, height=192, width=320)
    assert output.shape == (3, 192, 320)
    assert output.dtype == torch.float32
    assert output.is_contiguous()
    h, w = fit.content_height, fit.content_width
    assert h == 192 or w == 320
    expected = normalised(cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA).astype(np.float64))
    # Two roundings to integers apart: 2 of 255, over the smallest deviation.
    assert np.abs(output[:, :h, :w].numpy() - expected).max() < 2.01 / 255 / min(IMAGENET_STD)
    assert not output[:, h:].any()
    assert not output[:, :, w:].any()


def test_an_image_of_the_models_size_is_only_normalised() -> None:
    image = np.random.default_rng(0).integers(0, 256, (192, 320, 3), dtype=np.uint8)
    expected = torch.from_numpy(normalised(image.astype(np.float64)).astype(np.float32))
    kept = image.copy()
    image.setflags(write=False)
    output, fit = fit_image(image, height=192, width=320)
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)
    assert np.array_equal(image, kept)
    assert fit == Fit(192, 320, 192, 320, 1.0, 1.0, 192, 320)
    bgr = np.ascontiguousarray(kept[:, :, ::-1])
    flipped, _ = fit_image(bgr[:, :, ::-1], height=192, width=320)
    assert torch.equal(flipped, output)


@pytest.mark.parametrize(
    ("size", "content"),
    [
        ((720, 1280), (180, 320)),
        ((480, 640), (192, 256)),
        ((1280, 720), (192, 108)),
        ((90, 160), (180, 320)),
        ((3, 2000), (1, 320)),
    ],
)
def test_aspect_is_kept_to_the_nearest_pixel(size: tuple[int, int], content: tuple[int, int]) -> None:
    fit = fit_size(*size, height=192, width=320)
    assert (fit.content_height, fit.content_width) == content
    assert fit.scale_x == content[1] / size[1]
    assert fit.scale_y == content[0] / size[0]


@pytest.mark.parametrize("size", [(720, 1280), (1080, 1920), (721, 1281), (576, 768), (700, 1244)])
def test_thin_stripes_are_averaged_and_do_not_alias(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), dtype=np.uint8)
    image[:, ::2] = 255
    output, fit = fit_image(image, height=192, width=320)
    content = output[0, : fit.content_height, : fit.content_width]
    grey = (127.5 / 255 - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
    # A linear filter alone gives stripes of 0 and 255: 2.2 either way. The borders may be half a stripe.
    assert (content[:, 1:-1] - grey).abs().max() < 0.75


@pytest.mark.parametrize("size", SOURCES)
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_boxes_map_to_the_source(size: tuple[int, int], kind: str) -> None:
    fit = fit_size(*size, height=192, width=320)
    height, width = size
    source = np.array([[0, 0, width, height], [0.1 * width, 0.2 * height, 0.5 * width, 0.9 * height]])
    w, h = fit.content_width / 320, fit.content_height / 192
    # The whole content of the input, and a part of it, cxcywh.
    inside = np.array([[w / 2, h / 2, w, h], [0.3 * w, 0.55 * h, 0.4 * w, 0.7 * h]])
    boxes = torch.from_numpy(inside) if kind == "torch" else inside
    found = fit.boxes_to_source(boxes)
    assert type(found) is type(boxes)
    np.testing.assert_allclose(np.asarray(found), source, atol=1e-9 * max(size))


def test_boxes_are_clipped_to_the_source_and_the_argument_is_kept() -> None:
    fit = fit_size(720, 1280, height=192, width=320)
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5], [0.5, 0.99, 0.1, 0.02]])
    kept = boxes.clone()
    source = fit.boxes_to_source(boxes)
    assert torch.equal(boxes, kept)
    assert source[0].tolist() == [0, 0, 1280, 720]
    torch.testing.assert_close(source[1], torch.tensor([0.0, 0.0, 320.0, 192.0]))
    assert source[2, 1] == source[2, 3] == 720  # in the padding: nothing is left
    assert fit.boxes_to_source(torch.zeros(2, 0, 4)).shape == (2, 0, 4)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 5), np.uint8),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((4, 5, 3), np.float32),
        np.zeros((3, 4, 5), np.uint8),
    ],
)
def test_what_is_no_rgb_image_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8 RGB, got"):
        fit_image(image, height=192, width=320)


@pytest.mark.parametrize("sizes", [(0, 5, 4, 4), (5, 0, 4, 4), (5, 5, 0, 4), (5, 5, 4, -1)])
def test_empty_sizes_are_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1×1"):
        fit_size(sizes[0], sizes[1], height=sizes[2], width=sizes[3])
