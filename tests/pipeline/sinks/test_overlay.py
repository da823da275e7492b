"""Overlay drawing: what is coloured, what is not, and how instances differ."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.results import ellipse, make_instance, make_result

from ops.rle import encode_crop
from pipeline.sinks.overlay import PALETTE, Painter, draw, draw_result, track_colour
from pipeline.types import Instance

H, W = 120, 200


def block(x0: int, y0: int, x1: int, y1: int, *, height: int = H, width: int = W) -> NDArray[np.bool_]:
    """Return a mask of one rectangle, x1 and y1 exclusive."""
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def is_near(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return which pixels have the colour; antialiased lines miss it by a little."""
    return np.asarray(np.abs(pixels.astype(int) - colour).max(axis=-1) <= 30)


def noise(height: int = H, width: int = W) -> NDArray[np.uint8]:
    """Return a picture in which every pixel differs."""
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def lab(colours: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return RGB colours (N, 3) in CIELAB."""
    return np.asarray(cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0])


def test_the_frame_is_never_written_to() -> None:
    image = noise()
    image.flags.writeable = False
    before = image.copy()
    drawn = draw(image, [make_instance(block(20, 20, 90, 90))], boxes=True, note="untrained")
    assert (image == before).all()
    assert not np.shares_memory(drawn, image)
    assert (drawn.shape, drawn.dtype) == (image.shape, np.uint8)


def test_without_instances_the_picture_is_the_frame() -> None:
    image = noise()
    assert (draw(image, []) == image).all()
    gone = [make_instance(None, state="lost"), make_instance(np.zeros((H, W), dtype=np.bool_), track_id=2)]
    assert (draw(image, gone) == image).all()


def test_a_mask_is_tinted_inside_and_nothing_is_touched_outside() -> None:
    image = noise()
    mask = ellipse(H, W, (100, 60), (50, 40))
    drawn = draw(image, [make_instance(mask, track_id=4)], labels=False)
    inside = cv2.erode(mask.astype(np.uint8), np.ones((7, 7))) > 0
    outside = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) == 0
    assert (drawn[outside] == image[outside]).all()
    expected = 0.55 * image[inside] + 0.45 * np.array(track_colour(4))
    assert np.abs(drawn[inside] - expected).max() <= 1
    # The outline lies on the border, in the pure colour.
    border = mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) == 0)
    distance = np.abs(drawn[border].astype(int) - track_colour(4)).max(axis=1)
    assert (distance <= 90).mean() > 0.95


def test_a_hole_in_a_mask_stays_clear_and_is_outlined() -> None:
    image = np.full((H, W, 3), 128, dtype=np.uint8)
    mask = block(20, 10, 180, 110) & ~block(60, 40, 140, 80)
    drawn = draw(image, [make_instance(mask)], labels=False)
    assert (drawn[45:75, 65:135] == 128).all()
    assert is_near(drawn[60, 55:62], track_colour(1)).any()


def test_colours_belong_to_track_ids_and_not_to_the_order() -> None:
    image = np.full((H, W, 3), 90, dtype=np.uint8)
    first = make_instance(block(10, 10, 60, 100), track_id=7)
    second = make_instance(block(100, 10, 150, 100), track_id=8)
    assert (draw(image, [first, second]) == draw(image, [second, first])).all()
    assert track_colour(7) != track_colour(8)
    alone = draw(image, [second], labels=False)
    assert (alone[50, 120] == draw(image, [first, second], labels=False)[50, 120]).all()


def test_palette_is_well_separated() -> None:
    colours = lab(np.array(PALETTE, dtype=np.uint8))
    distances = [np.linalg.norm(a - b) for a, b in combinations(colours, 2)]
    assert min(distances) >= 25
    neighbours = [np.linalg.norm(a - b) for a, b in zip(colours, np.roll(colours, -1, axis=0), strict=True)]
    assert min(neighbours) >= 40


def test_the_smaller_mask_lies_in_front() -> None:
    image = np.full((H, W, 3), 100, dtype=np.uint8)
    large = make_instance(block(10, 10, 190, 110), track_id=1)
    small = make_instance(block(80, 40, 120, 80), track_id=2)
    drawn = draw(image, [small, large], labels=False)
    assert drawn[60, 100] == pytest.approx(0.55 * 100 + 0.45 * np.array(track_colour(2)), abs=1)
    assert drawn[60, 40] == pytest.approx(0.55 * 100 + 0.45 * np.array(track_colour(1)), abs=1)


def test_tentative_tracks_are_hatched_and_dashed() -> None:
    image = np.full((H, W, 3), 100, dtype=np.uint8)
    mask = block(30, 20, 170, 100)
    solid = draw(image, [make_instance(mask)], labels=False)
    hatched = draw(image, [make_instance(mask, state="tentative")], labels=False)
    tint = solid[60, 100]
    inside = hatched[30:90, 40:160]
    tinted = (inside == tint).all(axis=2).mean()
    clear = (inside == 100).all(axis=2).mean()
    assert tinted == pytest.approx(0.5, abs=0.05)
    assert clear == pytest.approx(0.5, abs=0.05)
    on_border = is_near(hatched[20, 35:165], track_colour(1)).mean()
    assert is_near(solid[20, 35:165], track_colour(1)).all()
    assert 0.3 < on_border < 0.9


def test_hatching_does_not_swim_when_the_mask_moves() -> None:
    image = np.full((H, W, 3), 100, dtype=np.uint8)
    first = draw(image, [make_instance(block(30, 20, 150, 100), state="tentative")], labels=False)
    second = draw(image, [make_instance(block(33, 21, 151, 99), state="tentative")], labels=False)
    assert (first[30:90, 40:140] == second[30:90, 40:140]).all()


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("state", ["confirmed", "tentative"])
def test_labels_are_legible_on_any_background(level: int, state: str) -> None:
    """Letters and their plate reach WCAG's contrast of 4.5 : 1, whatever lies below."""
    image = np.full((240, 400, 3), level, dtype=np.uint8)
    for track_id in range(len(PALETTE)):
        instance = make_instance(
            block(60, 80, 300, 200, height=240, width=400), track_id=track_id, state=state
        )
        changed = draw(image, [instance])
        plate = changed[64:79, 60:180].reshape(-1, 3).astype(float) / 255
        linear = np.where(plate <= 0.04045, plate / 12.92, ((plate + 0.055) / 1.055) ** 2.4)
        luminance = linear @ (0.2126, 0.7152, 0.0722)
        darkest, brightest = np.percentile(luminance, [1, 99])
        assert (brightest + 0.05) / (darkest + 0.05) >= 4.5, track_id


def test_labels_stay_inside_the_picture_and_apart_from_each_other() -> None:
    image = np.full((240, 400, 3), 100, dtype=np.uint8)
    masks = [block(0, 0, 60, 40, height=240, width=400), block(340, 0, 400, 40, height=240, width=400)]
    drawn = draw(image, [make_instance(mask, track_id=3 + i) for i, mask in enumerate(masks)])
    for i, columns in enumerate((slice(0, 150), slice(250, 400))):
        plate = (drawn[:, columns] == track_colour(3 + i)).all(axis=2)
        assert plate.sum() > 400
    same = block(100, 100, 200, 180, height=240, width=400)
    both = draw(image, [make_instance(same, track_id=5), make_instance(same, track_id=6)])
    plates = [(both == track_colour(track_id)).all(axis=2).sum() for track_id in (5, 6)]
    alone = draw(image, [make_instance(same, track_id=5)])
    assert plates[0] > 0.5 * (alone == track_colour(5)).all(axis=2).sum() - 400
    assert min(plates) > 700


def test_a_label_says_the_name_of_the_class_with_spaces() -> None:
    image = np.full((240, 400, 3), 100, dtype=np.uint8)
    mask = block(20, 60, 380, 200, height=240, width=400)

    def width(name: str) -> int:
        drawn = draw(image, [make_instance(mask, name=name)])
        columns = np.flatnonzero((drawn[:56] != 100).any(axis=(0, 2)))
        return int(columns[-1] - columns[0])

    named = draw(image, [make_instance(mask, name="traffic_light")])
    assert (named == draw(image, [make_instance(mask, name="traffic light")])).all()
    assert (named != draw(image, [make_instance(mask, name="baseball bat")])).any()
    assert 0 < width("") < width("car") < width("person") < width("traffic_light") < 300


def test_boxes_are_optional() -> None:
    image = np.full((H, W, 3), 100, dtype=np.uint8)
    instance = make_instance(ellipse(H, W, (100, 60), (60, 40)))
    x0, y0, x1, y1 = instance.box_xyxy
    without, with_box = (draw(image, [instance], labels=False, boxes=boxes) for boxes in (False, True))
    for y, x in ((y0, x0), (y0, x1 - 1), (y1 - 1, x0), (y1 - 1, x1 - 1)):
        assert tuple(without[y, x]) == (100, 100, 100)
        assert tuple(with_box[y, x]) == track_colour(1)


def test_the_note_stands_in_the_lower_left_corner() -> None:
    image = np.full((240, 400, 3), 100, dtype=np.uint8)
    changed = (draw(image, [], note="untrained") != image).any(axis=2)
    y, x = np.nonzero(changed)
    assert y.min() > 200
    assert x.max() < 140
    assert changed.sum() > 500


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (33, 51)])
def test_small_and_odd_pictures_can_be_drawn_on(size: tuple[int, int]) -> None:
    mask = np.ones(size, dtype=np.bool_)
    drawn = draw(noise(*size), [make_instance(mask)], boxes=True, note="untrained")
    assert drawn.shape == (*size, 3)


def test_names_that_are_not_ascii_do_not_fail() -> None:
    drawn = draw(noise(), [make_instance(block(20, 40, 150, 100), name="Füchse 狐")])
    assert drawn.shape == (H, W, 3)


def test_a_mask_of_another_frame_size_is_refused_by_name() -> None:
    mask = encode_crop(np.ones((20, 20), dtype=np.bool_), 190, 10)
    instance = Instance(9, 1, "person", 0.9, mask.box_xyxy, "confirmed", mask)
    with pytest.raises(ValueError, match=r"mask of track 9 at .* reaches outside the 200×120 picture"):
        draw(noise(), [instance])


def test_a_painter_draws_a_result_once_for_all_sinks() -> None:
    painter = Painter(note="untrained")
    result, other = (
        make_result(i, instances=[make_instance(block(8, 8, 40, 40, height=64, width=96))]) for i in (0, 1)
    )
    first = painter(result)
    assert painter(result) is first
    assert painter(other) is not first
    assert (first == draw_result(result, note="untrained")).all()


def test_of_a_model_without_masks_the_box_is_drawn() -> None:
    image = noise()
    boxed = replace(make_instance(None, state="confirmed", track_id=4), box_xyxy=(30, 20, 90, 80))
    drawn = draw(image, [boxed], labels=False)
    colour = track_colour(4)
    assert is_near(drawn[20, 30:90], colour).all()
    assert is_near(drawn[79, 30:90], colour).all()
    assert (drawn[30:70, 40:80] == image[30:70, 40:80]).all(), "nothing is tinted"
    assert (draw(image, [boxed]) != drawn).any(), "it has a label"
