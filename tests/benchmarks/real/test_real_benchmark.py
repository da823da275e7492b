"""The benchmark itself: a perfect finder gets everything, nothing gets nothing, and the peer is a fair one."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from benchmarks import bench_real
from benchmarks.peer_background import BackgroundPeer, PeerOptions
from benchmarks.real import page, pictures, runs
from benchmarks.real.runs import Found

OPTIONS = PeerOptions(
    num_samples=9,
    sample_seconds=0.1,
    warm_samples=3,
    threshold=30,
    open_pixels=3,
    close_pixels=5,
    min_area=100,
    match_iou=0.1,
)


@pytest.fixture(scope="module")
def labels() -> dict[str, Any]:
    """A still and a moving shot, and the held one, their first frames."""
    labels = runs.load_labels()
    kept = [video for video in labels["videos"] if video["name"] in ("waiting", "walker held still", "roof")]
    return runs.cut(runs.select(labels, {video["id"] for video in kept}), {v["id"]: slice(8) for v in kept})


def test_who_finds_all_is_told_so_and_who_finds_nothing_too(labels: dict[str, Any]) -> None:
    nothing: dict[int, Found] = {video["id"]: {} for video in labels["videos"]}
    result = bench_real.compare(labels, {"ours": runs.perfect(labels), "peer": nothing})
    for name, row in result.items():
        ours, peer = row["ours"], row["peer"]
        assert (ours["AP50"], ours["recall"], ours["precision"], ours["IDF1"]) == (1, 1, 1, 1), name
        assert (peer["AP50"], peer["recall"], peer["IDF1"]) == (0, 0, 0), name
    assert all(row["met"] for row in bench_real.targets(result).values())
    swapped = {name: {**row, "ours": row["peer"], "peer": row["ours"]} for name, row in result.items()}
    assert not any(row["met"] for row in bench_real.targets(swapped).values())


def test_an_id_given_anew_costs_ids_and_not_masks(labels: dict[str, Any]) -> None:
    found = runs.perfect(labels)
    for by_frame in found.values():
        for place, index in enumerate(sorted(by_frame)):
            by_frame[index] = [
                each._replace(track_id=each.track_id + 10 * (place // 4)) for each in by_frame[index]
            ]
    still = bench_real.compare(labels, {"ours": found})["still"]["ours"]
    assert still["AP50"] == 1.0
    assert still["num_id_switches"] == 1
    assert still["IDF1"] < 0.8


def test_groups_are_cameras_halves_and_shots() -> None:
    groups = bench_real.groups(runs.load_labels())
    names = {name: [video["name"] for video in each["videos"]] for name, each in groups.items()}
    assert names["all"] == ["roof", "traffic", "waiting", "crossing", "walker"]
    assert names["tuning"] == ["roof", "waiting"]
    assert names["reported"] == ["traffic", "crossing", "walker"]
    assert names["held still"] == names["shot walker held still"] == ["walker held still"]
    assert set(bench_real.HALVES[:3]) <= set(names)


def test_people_are_measured_without_blaming_vehicles(labels: dict[str, Any]) -> None:
    row = bench_real.compare(labels, {"ours": runs.perfect(labels)})["moving"]["ours"]
    assert row["people"]["num_object_frames"] == 8
    assert row["num_object_frames"] == 10
    assert row["people"]["precision"] == 1.0


def test_the_page_tells_every_shot_and_target(labels: dict[str, Any]) -> None:
    found = runs.perfect(labels)
    groups = bench_real.compare(labels, {"ours": found, "peer": found})
    told = {
        "model": "a network",
        "trained": False,
        "weights": "w",
        "overrides": [],
        "detector": None,
        "groups": groups,
        "targets": bench_real.targets(groups),
    }
    text = page.page(told, labels)
    assert "untrained" in text
    assert "16 frames of 2 shots" in text
    assert text.count("**missed**") == 4, "being as good as the peer is not being ahead of it"
    assert "| shot waiting (moving) | 10 | 100.0 / 100.0 |" in text
    assert "detector alone |" not in text, "it did not run"


def test_the_page_tells_of_both_halves_who_found_what_with_intervals(labels: dict[str, Any]) -> None:
    found = runs.perfect(labels)
    nothing: dict[int, Found] = {video["id"]: {} for video in labels["videos"]}
    groups = bench_real.compare(labels, {"ours": found, "peer": nothing, "detector": found})
    lines = page.halves(groups, "tuning").splitlines()
    assert "| **street** | ours | 100.0 (100–100) | 100.0 (100–100) |" in lines[2]
    assert "| **street** | background subtraction | 0.0 (0–0) | 0.0 (0–0) | – |" in lines[3]
    assert lines[4].endswith("| 100.0 |"), "names"
    assert [line.split(" | ")[1] for line in lines[5:]] == [*page.TITLES.values()], "people alone"
    assert page.halves(groups, "reported").count("\n") == 1, "none of these shots is reported"
    row = next(line for line in page.table(groups).splitlines() if line.startswith("| shot roof"))
    assert "100.0 / 0.0 / 100.0" in row


def test_pictures_show_the_frames_that_went_best_and_worst(labels: dict[str, Any]) -> None:
    video = next(each for each in labels["videos"] if each["name"] == "waiting")
    found = runs.perfect(labels)[video["id"]]
    worst, best = video["frame_indices"][3], video["frame_indices"][5]
    for index in video["frame_indices"]:
        if index != best:
            found[index] = [each._replace(mask=np.roll(each.mask, 20, axis=1)) for each in found[index]]
    found[worst] = []
    assert pictures.choose(labels, video, found) == (5, 3)
    rgb = np.zeros((video["height"], video["width"], 3), np.uint8)
    label = runs.label_masks(labels, video, 5)
    strip = pictures.row(rgb, label, found[best], [])
    tiles = np.split(strip, 3, axis=1)
    assert tiles[1].any()
    assert not tiles[2].any()


def test_holding_still_leaves_the_wall_where_it_is() -> None:
    labels = runs.load_labels()
    video = next(each for each in labels["videos"] if each["camera"] == "held still")
    frames = [each for each in runs.clip_frames() if each[0] in video["frame_indices"]]
    held = runs.held_frames(frames, video)
    assert [index for index, _, _ in held] == video["frame_indices"]
    assert np.diff([seconds for _, seconds, _ in held]) == pytest.approx(0.1)

    def shift(rows: list[tuple[int, float, runs.Image]]) -> float:
        first, last = (cv2.cvtColor(rows[place][2], cv2.COLOR_RGB2GRAY) for place in (12, 21))
        lamp = first[30:70, 490:540]
        match = cv2.matchTemplate(last, lamp, cv2.TM_CCOEFF_NORMED)
        _, likeness, _, (x, y) = cv2.minMaxLoc(match)
        assert likeness > 0.9
        return float(np.hypot(x - 490, y - 30))

    assert shift(frames) > 10
    assert shift(held) < 2, "the lamp stands a little before the wall"


def walk(num_frames: int, *, still: int = 10, seed: int = 0) -> list[runs.Image]:
    """A noisy wall, and after `still` frames a square that walks in from the left, 6 pixels a frame."""
    noise = np.random.default_rng(seed)
    wall = noise.integers(60, 120, (60, 160, 3), dtype=np.uint8)
    frames = []
    for index in range(num_frames):
        frame = (wall + noise.integers(0, 8, wall.shape)).astype(np.uint8)
        if index >= still:
            frame[20:40, max(0, 6 * (index - still) - 20) : 6 * (index - still)] = 230
        frames.append(frame)
    return frames


def test_the_peer_finds_what_walks_with_one_id() -> None:
    peer, seen = BackgroundPeer(OPTIONS), []
    for index, frame in enumerate(walk(30)):
        instances = peer.update(frame, index / 10)
        assert len(instances) == (1 if index >= 11 else 0), index
        seen += [each.track_id for each in instances]
        if index >= 15:
            truth = np.zeros((60, 160), np.bool_)
            truth[20:40, 6 * (index - 10) - 20 : 6 * (index - 10)] = True
            mask = instances[0].mask
            assert (mask & truth).sum() / (mask | truth).sum() > 0.7
    assert set(seen) == {1}


def test_the_peer_knows_nothing_at_first_and_after_a_cut() -> None:
    peer = BackgroundPeer(OPTIONS)
    dark, light = walk(12, still=99), [255 - frame for frame in walk(12, still=99, seed=1)]
    found = [peer.update(frame, index / 10) for index, frame in enumerate([*dark, *light])]
    assert not any(found), "another scene is no motion"


def test_the_peer_fills_the_inside_of_what_is_even() -> None:
    difference = np.zeros((60, 60), np.uint8)
    cv2.rectangle(difference, (10, 10), (49, 39), (200,), 4)
    (instance,) = BackgroundPeer(OPTIONS).take(difference, False)
    assert instance.mask[25, 30]
    assert not instance.mask[5, 5]
