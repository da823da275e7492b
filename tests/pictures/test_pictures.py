"""The scripts that make the clip and the pictures: what of them needs no package's data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures.overlay_picture import picked
from pictures.street_cast import CARS
from pictures.street_clip import PLACE, draw_somebody
from pictures.street_place import LEFT_KERB, RIGHT_KERB, draw_street
from support.video import read_number, write_video


def test_frames_are_cut_out_in_the_order_asked_for(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", num_frames=20)
    assert [read_number(frame) for frame in picked(clip, [17, 3])] == [17, 3]
    with pytest.raises(ValueError, match=r"0\.\.19.*\[20\]"):
        picked(clip, [3, 20])


def test_a_parked_car_stands_on_the_ground_with_its_shadow_beside_it() -> None:
    parked = CARS[2]
    found = draw_somebody(parked, 0.0, PLACE)
    assert found is not None
    z, sprite, (shadow, _) = found
    ((_, s, t),) = parked.way
    assert z == pytest.approx(PLACE.ahead(s, t)[1])
    x, y = PLACE.pixel(*PLACE.ahead(s, t)[:1], 0.0, z)
    rows, columns = np.nonzero(sprite.rgba[..., 3] > 127)
    assert columns.min() + sprite.x < x < columns.max() + sprite.x
    assert rows.min() + sprite.y < y < rows.max() + sprite.y, "the foot lies below the middle of the car"
    dark_rows, dark_columns = np.nonzero(shadow[0].rgba[..., 3] > 127)
    assert dark_columns.max() + shadow[0].x > columns.max() + sprite.x, "the sun throws it to the right"
    assert dark_rows.max() + shadow[0].y > y, "it begins under the nose"
    assert dark_rows.min() + shadow[0].y > rows.min() + sprite.y, "it lies on the ground"


def test_the_empty_street_has_a_lighter_pavement_beside_a_dark_road_below_the_sky() -> None:
    place = PLACE._replace(height=96, width=160, focal=PLACE.focal / 4, horizon=PLACE.horizon / 4)
    picture = draw_street(place, 4, finer=2)
    assert picture.shape == (96, 160, 3)

    def colour(s: float, t: float) -> np.ndarray:
        x, z = place.ahead(s, t)
        column, row = place.pixel(x, 0.0, z)
        return picture[round(row), round(column)].astype(int)

    road, pavement = colour(24.0, 1.0), colour(24.0, RIGHT_KERB + 1.0)
    assert pavement.mean() > road.mean() + 25
    assert colour(24.0, LEFT_KERB - 0.7).mean() > road.mean() + 25
    red, _, blue = picture[0, round(place.pixel(*place.ahead(90.0, 0.0)[:1], 0.0, 88.0)[0])].astype(int)
    assert blue > red + 20
