"""Crop RLE: equal to pycocotools' bytes, both ways, at borders; garbage is an error, never an allocation."""

import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco

from ops import CropRLE, encode_crop, rle

DENSITIES = (0.0, 0.02, 0.5, 0.98, 1.0)


def full_frame(mask: NDArray[Any], x: int, y: int, height: int, width: int) -> NDArray[np.bool_]:
    frame = np.zeros((height, width), dtype=np.bool_)
    frame[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return frame


def coco_of(mask: NDArray[Any]) -> dict[str, Any]:
    coded: dict[str, Any] = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return coded


@pytest.mark.parametrize("density", DENSITIES)
def test_converts_both_ways_to_the_bytes_of_full_frame_coco_rle(density: float) -> None:
    rng = np.random.default_rng(int(density * 100))
    for _ in range(60):
        h, w, below, right = (int(v) for v in rng.integers([1, 1, 0, 0], [30, 30, 4, 4]))
        y, x = int(rng.integers(0, 4)), int(rng.integers(0, 4))
        height, width = y + h + below, x + w + right
        mask = rng.random((h, w)) < density
        frame = full_frame(mask, x, y, height, width)
        rle = encode_crop(mask, x, y)
        assert np.array_equal(rle.decode(height, width), frame)
        assert rle.area == frame.sum()
        assert rle.to_coco(height, width) == coco_of(frame)
        assert CropRLE.from_coco(coco_of(frame)) == rle
        assert np.array_equal(coco.decode(rle.to_coco(height, width)), frame)


def test_a_crop_as_tall_as_the_frame_joins_runs_across_columns() -> None:
    frame = np.zeros((4, 6), dtype=np.bool_)
    frame[:, 1:4] = True
    rle = encode_crop(frame, 0, 0)
    assert rle.box_xyxy == (1, 0, 4, 4)
    assert rle.to_coco(4, 6) == coco_of(frame)
    taller = full_frame(frame, 0, 2, 9, 6)
    assert CropRLE.from_coco(coco_of(taller)).to_coco(9, 6) == coco_of(taller)


def test_crop_shrinks_to_its_ones_unless_told_otherwise() -> None:
    mask = np.zeros((10, 12), dtype=np.uint8)
    mask[3:5, 4:9] = 255
    tight = encode_crop(mask, 100, 200)
    assert tight.box_xyxy == (104, 203, 109, 205)
    assert tight.decode_crop().shape == (2, 5)
    loose = encode_crop(mask, 100, 200, tight=False)
    assert loose.box_xyxy == (100, 200, 112, 210)
    assert loose.counts == coco_of(mask > 0)["counts"]
    assert np.array_equal(tight.decode(300, 300), loose.decode(300, 300))
    assert CropRLE.from_coco(loose.to_coco(300, 300)) == tight


@pytest.mark.parametrize("mask", [np.zeros((5, 7)), np.zeros((0, 0)), np.zeros((0, 5)), np.zeros((5, 0))])
def test_empty_masks(mask: NDArray[Any]) -> None:
    rle = encode_crop(mask, 3, 4)
    assert rle.is_empty
    assert rle == CropRLE(0, 0, 0, 0, b"")
    assert rle.area == 0
    assert rle.decode_crop().shape == (0, 0)
    assert not rle.decode(6, 8).any()
    assert rle.to_coco(6, 8) == coco_of(np.zeros((6, 8)))
    assert CropRLE.from_coco(rle.to_coco(6, 8)) == rle


def test_masks_at_each_border_and_of_one_pixel() -> None:
    for x, y in [(0, 0), (19, 0), (0, 9), (19, 9), (7, 3)]:
        frame = np.zeros((10, 20), dtype=np.bool_)
        frame[y, x] = True
        rle = encode_crop(frame, 0, 0)
        assert rle == CropRLE(x, y, 1, 1, rle.counts)
        assert np.array_equal(rle.decode(10, 20), frame)


def test_counts_as_text_or_uncompressed_are_read_too() -> None:
    frame = np.zeros((10, 20), dtype=np.bool_)
    frame[2:7, 3:9] = True
    compressed = coco_of(frame)
    expected = encode_crop(frame, 0, 0)
    assert CropRLE.from_coco({**compressed, "counts": compressed["counts"].decode()}) == expected
    edges = np.flatnonzero(np.diff(frame.T.ravel().astype(int))) + 1
    uncompressed = np.diff([0, *edges, frame.size]).tolist()
    assert CropRLE.from_coco({"size": [10, 20], "counts": uncompressed}) == expected


def test_encoding_is_one_that_pycocotools_reads_at_720p() -> None:
    yy, xx = np.mgrid[:720, :1280]
    frame = ((yy - 300) / 250) ** 2 + ((xx - 700) / 400) ** 2 < 1
    rle = encode_crop(frame, 0, 0)
    assert len(rle.counts) < 2000
    crop = coco.decode({"size": [rle.height, rle.width], "counts": rle.counts})
    assert np.array_equal(crop, frame[rle.y : rle.y + rle.height, rle.x : rle.x + rle.width])


# A number of 7 characters, as large as they go: 33 bits of ones.
HUGE = b"oooooo?"


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (b"", "sum to 0 pixels, their size has 12"),
        (b"<1", "sum to 13 pixels"),
        (b"\x00\x01", "not COCO RLE"),
        (b"\xff\xff", "not COCO RLE"),
        (b"4o", "truncated"),
        (b"o" * 40, "truncated"),
        (b"o" * 40 + b"0", "41 characters"),
        (b"O<", "run length outside 0..12"),
        (HUGE, "run length outside 0..12"),
        (HUGE * 1000, "run length outside 0..12"),
    ],
)
def test_garbage_counts_are_an_error_that_says_what_is_wrong(counts: bytes, message: str) -> None:
    rle = CropRLE(0, 0, 4, 3, counts)
    for read in (
        rle.check,
        rle.decode_crop,
        lambda: rle.decode(5, 5),
        lambda: rle.to_coco(5, 5),
        lambda: rle.area,
    ):
        with pytest.raises(ValueError, match=message):
            read()
    with pytest.raises(ValueError, match=message):
        CropRLE.from_coco({"size": [3, 4], "counts": counts})


def test_random_bytes_never_do_more_than_raise_value_error() -> None:
    rng = np.random.default_rng(0)
    good = encode_crop(rng.random((40, 50)) < 0.3, 0, 0)
    accepted = 0
    for trial in range(3000):
        data = bytearray(good.counts)
        if trial % 2:
            data = bytearray(rng.integers(48, 112, size=int(rng.integers(0, 60)), dtype=np.uint8).tobytes())
        else:
            for _ in range(int(rng.integers(1, 4))):
                data[int(rng.integers(len(data)))] = int(rng.integers(0, 256))
        try:
            crop = CropRLE(0, 0, good.width, good.height, bytes(data)).decode_crop()
        except ValueError:
            continue
        accepted += 1
        assert crop.shape == (good.height, good.width)
    assert accepted < 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 2, 2, b""), "integers ≥ 0"),
        ((0, 0, 2.5, 2, b""), "integers ≥ 0"),
        ((0, 0, 2, 0, b""), "both a width and a height"),
        ((0, 0, 60_000, 60_000, b""), "more than a mask may have"),
        ((0, 0, 1 << 40, 1, b""), "integers ≥ 0"),
        ((0, 0, 2, 2, "04"), "bytes"),
    ],
)
def test_impossible_crops_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CropRLE(*arguments)


def test_a_crop_outside_its_frame_is_refused() -> None:
    rle = encode_crop(np.ones((3, 4)), 5, 6)
    assert rle.decode(9, 9).sum() == 12
    for height, width in [(8, 9), (9, 8), (0, 0), (-1, 9)]:
        with pytest.raises(ValueError, match="frame"):
            rle.decode(height, width)
        with pytest.raises(ValueError, match="frame"):
            rle.to_coco(height, width)


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [3], "counts": b""},
        {"size": [3, -4], "counts": b""},
        {"size": ["3", 4], "counts": b""},
        {"size": [1 << 20, 1 << 20], "counts": b""},
        {"size": [3, 4], "counts": None},
        {"size": [3, 4], "counts": "é"},
        {"size": [3, 4], "counts": [5, -1, 8]},
        {"size": [3, 4], "counts": [5, 6]},
        {"size": [3, 4], "counts": [5, "7"]},
        {"size": [3, 4], "counts": [1 << 80]},
    ],
)
def test_what_is_no_coco_rle_is_refused(rle: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"RLE|counts|pixels"):
        CropRLE.from_coco(rle)


def test_a_reader_of_masks_loads_neither_torch_nor_cv2() -> None:
    check = "import sys; from ops import CropRLE, encode_crop; assert not {'torch', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_long_counts_are_read_in_blocks_and_take_ten_times_their_size_at_most() -> None:
    mask = np.random.default_rng(5).random((1500, 1300)) < 0.5
    crop = encode_crop(mask, 0, 0, tight=False)
    assert len(crop.counts) > 3 * rle._BLOCK
    np.testing.assert_array_equal(crop.decode_crop(), mask)
    area = 2048 * 2048
    dense = CropRLE(0, 0, 2048, 2048, b"111" + b"0" * (area - 3))  # runs of one pixel
    tracemalloc.start()
    try:
        dense.check()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 14 * area


@pytest.mark.parametrize("length", range(1, 12))
@pytest.mark.parametrize("before", range(-8, 3))
def test_a_number_at_the_border_of_two_blocks_is_read_whole(length: int, before: int) -> None:
    """A number of many characters, from there on where the first block ends."""
    number = b"P" * (length - 1) + b"1"  # 1, written with needless zeros
    counts = b"111" + b"0" * (rle._BLOCK - 3 + before) + number + b"0" * 20
    if length > rle._MAX_CHARACTERS:
        with pytest.raises(ValueError, match=r"characters|truncated"):
            rle._parse(counts)
        return
    values = rle._parse(counts)
    assert len(values) == rle._BLOCK + before + 1 + 20
    # The groups are worth 1 at the place of the last one, and the difference stays from there on.
    assert set(values[: rle._BLOCK + before]) == {1}
    assert set(values[rle._BLOCK + before :: 2]) == {1 + (1 << 5 * (length - 1))}
    assert set(values[rle._BLOCK + before + 1 :: 2]) == {1}
