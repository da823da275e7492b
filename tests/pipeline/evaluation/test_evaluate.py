"""Evaluation of the real windows and associator: with true masks, with swapped ids, and against a Stream."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.annotated import ScenePredictor, scene_json, scene_videos
from support.predictors import FixedPredictor
from support.streams import TINY_NETWORK, tiny_config
from support.truth import Corruption, Mover, Scene, script

from model.__main__ import main as model_main
from model.errors import DatasetError
from model.evaluation.dataset import read_ground_truth
from pipeline.__main__ import main
from pipeline.config import StreamConfig
from pipeline.config_file import load_config
from pipeline.errors import ConfigError
from pipeline.evaluation.annotated import AnnotatedVideos, open_annotated
from pipeline.evaluation.evaluate import (
    WHOLE_FRAMES,
    Mode,
    comparable_truth,
    evaluate_dataset,
    gather,
    predict_dataset,
)
from pipeline.evaluation.workers import DataPlace, predict_in_processes
from pipeline.inference.network_predictor import load_predictor
from pipeline.live.stream import Stream

MODES: tuple[Mode, ...] = ("whole", "window", "streaming")
LEFT = Mover(lambda number: (0.2 + 0.004 * number, 0.3), radii=(0.14, 0.2), output=1)
RIGHT = Mover(lambda number: (0.75 - 0.004 * number, 0.65), radii=(0.12, 0.24), output=1)
DOG = Mover(lambda number: (0.3, 0.8) if number >= 5 else None, radii=(0.1, 0.15), output=2)


def two_scenes(num_frames: int = 20) -> list[Scene]:
    return [
        script([LEFT, RIGHT], num_frames, height=96, width=160),
        script([LEFT, DOG], num_frames, height=96, width=160),
    ]


def swapped(scene: Scene, at: int) -> Scene:
    """Return the scene where objects 0 and 1 change names at a frame."""
    names = {0: 1, 1: 0}
    masks = [
        {names[name]: mask for name, mask in masks.items()} if number >= at else masks
        for number, masks in enumerate(scene.masks)
    ]
    return Scene(scene.height, scene.width, masks, scene.outputs)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_frames", [18, WHOLE_FRAMES + 4])
def test_true_masks_reach_nearly_everything(mode: Mode, num_frames: int) -> None:
    scenes = two_scenes(num_frames)
    predictor = ScenePredictor(scenes)
    told: list[int] = []
    metrics = evaluate_dataset(StreamConfig(), predictor, scene_videos(scenes), mode, progress=told.append)
    assert metrics["AP"] > 0.95
    assert metrics["AR100"] > 0.95
    assert metrics["frames"]["AP50"] > 0.99
    assert metrics["frames"]["recall"] > 0.99
    assert (metrics["frames"]["IDF1"], metrics["frames"]["num_id_switches"]) == (1, 0)
    assert told == [num_frames] * 2
    assert metrics["num_frames"] == 2 * num_frames
    assert predictor.forgotten == ["video1", "video2"]
    assert metrics["num_videos"] == (2 * -(-num_frames // 5) if mode == "window" else 2)


def test_swapped_ids_cost_the_modes_that_keep_ids() -> None:
    scene = script([LEFT, RIGHT], 20, height=96, width=160)
    dataset = scene_videos([swapped(scene, 10)])
    metrics = {
        mode: evaluate_dataset(StreamConfig(), ScenePredictor([scene]), dataset, mode) for mode in MODES
    }
    assert metrics["window"]["AP"] > 0.95
    assert metrics["streaming"]["AP"] < 0.1
    assert metrics["whole"]["AP"] < 0.1
    assert metrics["streaming"]["frames"]["AP50"] > 0.99
    assert metrics["streaming"]["frames"]["num_id_switches"] == 2
    assert metrics["streaming"]["frames"]["IDF1"] == pytest.approx(0.5)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_sees_nothing_scores_nothing(mode: Mode) -> None:
    scenes = two_scenes()
    metrics = evaluate_dataset(
        StreamConfig(), ScenePredictor(scenes, corruption=Corruption(miss=1.0)), scene_videos(scenes), mode
    )
    assert (metrics["AP"], metrics["num_results"], metrics["frames"]["recall"]) == (0, 0, 0)


def test_a_track_has_the_mean_score_and_the_class_that_leads() -> None:
    scenes = [script([LEFT], 20, height=96, width=160)]
    predictor = ScenePredictor(scenes, corruption=Corruption(class_flicker=0.3))
    (row,) = predict_dataset(StreamConfig(), predictor, scene_videos(scenes), "streaming").rows
    assert row["category_id"] == 1
    assert 0.3 < row["score"] < 0.9
    assert len(row["segmentations"]) == 20
    assert all(mask["size"] == [96, 160] for mask in row["segmentations"])


def test_later_revisions_come_too_late() -> None:
    scenes = two_scenes()
    corruption = Corruption(jitter=1)
    rows = {
        emission: predict_dataset(
            load_config(values={"emission": emission}),
            ScenePredictor(scenes, corruption=corruption),
            scene_videos(scenes),
            "streaming",
        ).rows
        for emission in ("first", "both", "final")
    }
    assert [row["segmentations"] for row in rows["first"]] == [row["segmentations"] for row in rows["both"]]
    assert rows["final"] != rows["first"]


def test_a_class_agnostic_model_is_compared_with_all_categories_as_one() -> None:
    truth = read_ground_truth(scene_json(two_scenes()))
    one = comparable_truth(truth, FixedPredictor().facts)
    assert one.categories == {1: "object"}
    assert {track.category_id for track in one.annotations} == {1}
    assert len(one.annotations) == len(truth.annotations)


def test_a_data_set_of_objects_takes_every_name() -> None:
    scenes = two_scenes()
    named = evaluate_dataset(StreamConfig(), ScenePredictor(scenes), scene_videos(scenes), "streaming")
    tree = scene_json(scenes)
    tree["categories"] = [{"id": 7, "name": "object"}]
    for annotation in tree["annotations"]:
        annotation["category_id"] = 7
    truth = read_ground_truth(tree)
    facts = ScenePredictor(scenes).facts
    assert comparable_truth(truth, facts) is truth
    rows = {video: [{"score": 0.5, "category_id": 2, "segmentations": []}] for video in truth.videos}
    gathered = gather(truth, facts, "streaming", rows, seconds=1.0)
    assert {row["category_id"] for row in gathered.rows} == {7}
    assert named["AP"] > 0


def test_a_stream_that_looks_for_one_class_of_many_is_not_class_agnostic() -> None:
    """Its other categories are not taken for that class: they are missed."""
    truth = read_ground_truth(scene_json(two_scenes()))
    facts = replace(FixedPredictor().facts, class_list="ovis", classes={0: (1, "person")})
    assert comparable_truth(truth, facts).categories == truth.categories


def test_categories_that_mean_something_else_are_refused() -> None:
    scenes = two_scenes()
    tree = scene_json(scenes)
    tree["categories"][1]["name"] = "Giant Panda"
    with pytest.raises(ConfigError, match=r"category 2 is 'Giant Panda' there and 'dog'"):
        comparable_truth(read_ground_truth(tree), ScenePredictor(scenes).facts)
    tree["categories"][1]["name"] = "Dog"
    comparable_truth(read_ground_truth(tree), ScenePredictor(scenes).facts)


def test_a_predictor_of_fixed_length_cannot_see_a_whole_video() -> None:
    dataset = scene_videos(two_scenes())
    with pytest.raises(ValueError, match="answers for 5 frames, the window has 20: use mode"):
        evaluate_dataset(StreamConfig(), FixedPredictor(), dataset, "whole")
    with pytest.raises(ValueError, match="must be one of whole, window, streaming"):
        evaluate_dataset(StreamConfig(), FixedPredictor(), dataset, "live")  # type: ignore[arg-type]


def write_dataset(folder: Path, *, num_videos: int = 2, num_frames: int = 7) -> Path:
    """Write annotations and noisy pictures of a drifting disc; return the JSON file."""
    scenes = two_scenes(num_frames)[:num_videos]
    rng = np.random.default_rng(0)
    for number, scene in enumerate(scenes, start=1):
        (folder / str(number)).mkdir(parents=True)
        for index in range(num_frames):
            picture = rng.integers(0, 255, (scene.height, scene.width, 3), np.uint8)
            cv2.circle(picture, (30 + 9 * index, 50), 20, (30, 90, 240), -1)
            assert cv2.imwrite(str(folder / str(number) / f"{index:05}.png"), picture)
    path = folder / "val.json"
    path.write_text(json.dumps(scene_json(scenes)))
    return path


def test_streaming_is_what_a_stream_publishes(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, num_videos=1, num_frames=12)
    sections: dict[str, Any] = {
        "cadence": {"fps": "source"},
        "association": {"birth_score": 0.1, "birth_max_iou": 1.0, "nms_iou": 1.0},
    }
    config = tiny_config(tmp_path / "1", **sections)
    predictions = predict_dataset(config, load_predictor(config), open_annotated(path), "streaming")
    published: dict[int, dict[int, str]] = {}
    scores: dict[int, list[float]] = {}
    with Stream(config, predictor=load_predictor(config)) as stream:
        for result in stream:
            for row in result.instances:
                if row.mask is not None:
                    counts = row.mask.to_coco(96, 160)["counts"].decode()
                    published.setdefault(row.track_id, {})[result.frame.index] = counts
                    scores.setdefault(row.track_id, []).append(row.score)
    evaluated = [
        {index: mask["counts"] for index, mask in enumerate(row["segmentations"]) if mask is not None}
        for row in predictions.rows
    ]
    assert len(published) >= 2
    assert evaluated == list(published.values())
    assert [row["score"] for row in predictions.rows] == [np.mean(each) for each in scores.values()]


TINY = ["model.weights=null", *(f"model.network.{key}={value}" for key, value in TINY_NETWORK.items())]


@pytest.mark.parametrize("mode", MODES)
def test_the_command_line_writes_results_that_evaluate_alike(
    mode: Mode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data")
    out = tmp_path / "out.json"
    overrides = [word for each in (*TINY, "association.birth_score=0.3") for word in ("--set", each)]
    arguments = ["evaluate", "--mode", mode, "--data", str(tmp_path / "data"), *overrides, "--limit", "1"]
    assert main([*arguments, "--threads", "1", "--results", str(out), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert (metrics["mode"], metrics["num_frames"]) == (mode, 7)
    assert metrics["num_results"] == len(json.loads(out.read_text())) > 0

    truth = tmp_path / "out.gt.json"
    assert model_main(["evaluate", "--gt", str(truth), "--results", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == {key: metrics[key] for key in again}
    assert len(json.loads(truth.read_text())["videos"]) == (2 if mode == "window" else 1)


@pytest.mark.timeout(300)  # processes that import torch, on a machine that may be busy
def test_workers_answer_as_one_process(tmp_path: Path) -> None:
    place = DataPlace(write_dataset(tmp_path), limit=2)
    config = tiny_config("unused", association={"birth_score": 0.1}, model={"num_threads": 1})
    predictor = load_predictor(config)
    told: list[int] = []
    shared = predict_in_processes(
        config, predictor.facts, place, "window", num_workers=2, progress=told.append
    )
    alone = predict_dataset(config, predictor, place.open(), "window")
    clips = {row["video_id"] for row in alone.rows}
    assert clips & {1, 2}
    assert clips & {3, 4}
    assert shared.rows == alone.rows
    assert told == [7, 7]


@pytest.mark.timeout(300)  # processes that import torch, on a machine that may be busy
def test_a_fault_in_a_worker_ends_the_run(tmp_path: Path) -> None:
    place = DataPlace(write_dataset(tmp_path))
    (tmp_path / "2" / "00004.png").write_bytes(b"")
    config = tiny_config("unused")
    facts = load_predictor(config).facts
    with pytest.raises(DatasetError, match=r"video 2, frame 4: 00004\.png cannot be read"):
        predict_in_processes(config, facts, place, "window", num_workers=1)


def test_bad_data_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = write_dataset(tmp_path / "data", num_videos=1)

    def fault(*arguments: str) -> str:
        caplog.clear()
        assert main(["evaluate", "--mode", "streaming", *arguments]) == 1
        return caplog.text

    assert "none.json: No such file" in fault("--data", str(tmp_path / "none.json"))
    assert "holds not one .json file but none" in fault("--data", str(tmp_path))
    assert "there is no image" in fault("--data", str(path), "--images", str(tmp_path))
    assert "would overwrite" in fault("--data", str(path), "--results", str(path))
    assert "would overwrite" in fault("--data", str(path.parent), "--results", str(path))
    assert json.loads(path.read_text())["annotations"]
    assert "choose a path" in fault("--data", str(path), "--results", str(tmp_path / "no" / "out.json"))
    assert "model.weights" in fault("--data", str(path), "--weights", str(tmp_path / "none.safetensors"))


def test_no_frame_is_left_out(tmp_path: Path) -> None:
    dataset = open_annotated(write_dataset(tmp_path))
    video = dataset.truth.videos[2]
    frames = list(dataset.frames(video, fps=5.0))
    assert [frame.index for frame in frames] == list(range(7))
    assert [frame.seconds for frame in frames] == pytest.approx([number / 5 for number in range(7)])
    assert all(frame.sampled and frame.source == "video2" for frame in frames)

    (tmp_path / "2" / "00003.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"val\.json: video 2, frame 3: 00003\.png cannot be read"):
        list(dataset.frames(video, fps=5.0))
    (tmp_path / "2" / "00003.png").unlink()
    with pytest.raises(DatasetError, match=r"video 2, frame 3: 00003\.png: No such file"):
        list(dataset.frames(video, fps=5.0))

    small = AnnotatedVideos(dataset.truth, lambda video, number: np.zeros((48, 80, 3), np.uint8))
    with pytest.raises(DatasetError, match="video 2 is 160×96, but the image of frame 0 is 80×48"):
        list(small.frames(video, fps=5.0))


def test_a_folder_stands_for_its_annotations(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, num_videos=1)
    assert open_annotated(tmp_path).truth.name == str(path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(
        DatasetError, match=r"not one \.json file but results\.json, val\.json; name the file"
    ):
        open_annotated(tmp_path)
    path.rename(tmp_path / "annotations.json")
    assert len(open_annotated(tmp_path).truth.videos) == 1


def test_images_are_found_in_the_standard_folder(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, num_videos=1)
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "1").rename(tmp_path / "JPEGImages" / "1")
    dataset = open_annotated(path)
    assert dataset.read(dataset.truth.videos[1], 0).shape == (96, 160, 3)


def test_a_data_set_without_file_names_is_refused(tmp_path: Path) -> None:
    tree = scene_json(two_scenes(6))
    del tree["videos"][0]["file_names"]
    path = tmp_path / "val.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(DatasetError, match="video 1 has no file_names; add"):
        open_annotated(path)
