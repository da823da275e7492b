"""The frozen videos: the same as published, apart from training, and a data set that the evaluation reads."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from model.__main__ import main
from model.evaluation.dataset import read_ground_truth, read_results
from model.evaluation.ytvis_ap import evaluate
from model.training.data.frozen import (
    FrozenSet,
    FrozenVideo,
    Split,
    annotation_rows,
    frozen_scene,
    frozen_seed,
    published_hashes,
    render_frozen,
    write_frozen,
    write_hashes,
)
from model.training.data.scene.sprite_scenes import DECOY
from model.training.data.sprites import SpriteClips
from model.training.data.street import StreetClips
from ops.rle import CropRLE
from pipeline.evaluation.annotated import open_annotated

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "street"
SETS: tuple[FrozenSet, ...] = ("street", "sprites")
SPLITS: tuple[Split, ...] = ("val", "test")


def test_the_code_draws_the_published_scenes(tmp_path: Path) -> None:
    """After a change on purpose: `python -m model data-freeze --hashes` and the golden frames' make.py."""
    published = published_hashes()
    drawn = published_hashes(write_hashes(tmp_path / "hashes.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["hashes.json"]
    assert set(drawn) == set(published) == {"street", "sprites"}
    for name, split in product(SETS, SPLITS):
        other = [
            video
            for video, pair in enumerate(zip(drawn[name][split], published[name][split], strict=True))
            if pair[0] != pair[1]
        ]
        assert not other, f"{name} {split}: {len(other)} videos are other ones, the first is {other[0]}"
        assert len(published[name][split]) == 200


def test_hashes_of_all_videos_differ() -> None:
    hashes = [each for splits in published_hashes().values() for split in splits.values() for each in split]
    assert len(set(hashes)) == 800


def test_frozen_seeds_are_none_that_training_draws() -> None:
    frozen = {frozen_seed(split, index) for split in SPLITS for index in range(200)}
    assert len(frozen) == 400
    assert min(frozen) >= 1 << 63
    training = [
        source.scene(index).seed for source in (StreetClips(3), SpriteClips(3)) for index in range(100)
    ]
    assert max(training) < 1 << 63


@pytest.mark.parametrize(
    "video", json.loads((GOLDEN / "index.json").read_text()), ids=lambda row: row["video"]
)
def test_golden_videos_agree_within_one_grey_level(video: dict[str, Any]) -> None:
    """One level: builds of OpenCV and processors round the last bit of interpolation differently."""
    rendered = render_frozen("street", video["split"], video["video"], frames=tuple(video["frames"]))
    assert rendered.sha256 == video["sha256"]
    assert len(video["files"]) == 3
    for name, image in zip(video["files"], rendered.images, strict=True):
        golden = cv2.imread(str(GOLDEN / name), cv2.IMREAD_COLOR)
        assert golden is not None
        difference = np.abs(golden[..., ::-1].astype(int) - image.astype(int))
        assert difference.max() <= 1, f"{name}: {(difference > 1).mean():.2%} of the values differ by more"


def test_golden_files_are_four_videos_and_small() -> None:
    files = list(GOLDEN.glob("*.png"))
    assert len(files) == 12
    assert sum(path.stat().st_size for path in files) <= 400 * 1024


def test_a_written_split_is_a_data_set_that_holds_what_was_rendered(tmp_path: Path) -> None:
    path = write_frozen("sprites", "val", tmp_path, num_videos=2)
    tree = json.loads(path.read_text())
    data = open_annotated(tmp_path)
    assert [(video.length, video.height, video.width) for video in data.truth.videos.values()] == [
        (40, 192, 320)
    ] * 2
    assert len(data.truth.categories) == 10
    assert [row["id"] for row in tree["annotations"]] == list(range(1, len(tree["annotations"]) + 1))
    for place, row in enumerate(tree["videos"]):
        assert row["sha256"] == frozen_scene("sprites", "val", place).sha256()
        rendered = render_frozen("sprites", "val", place)
        rows = [each for each in tree["annotations"] if each["video_id"] == row["id"]]
        assert rows
        for frame in (0, 17, 39):
            assert np.array_equal(data.read(data.truth.videos[row["id"]], frame), rendered.images[frame])
            masks = [
                CropRLE.from_coco(each["segmentations"][frame]).decode(192, 320)
                for each in rows
                if each["areas"][frame]
            ]
            counted = np.isin(rendered.ids[frame], [
                number for number, label in enumerate(rendered.labels, start=1) if label != DECOY
            ])  # fmt: skip
            missed = counted.sum() - sum(mask.sum() for mask in masks)
            assert np.sum(masks, axis=0, dtype=int).max() <= 1
            assert 0 <= missed < 30, "masks are all but slivers"
            assert not (np.any(masks, axis=0) & ~counted).any()


def test_the_ground_truth_as_results_is_perfect(tmp_path: Path) -> None:
    path = write_frozen("street", "test", tmp_path, num_videos=1)
    tree = json.loads(path.read_text())
    truth = read_ground_truth(path)
    rows = [
        {key: row[key] for key in ("video_id", "category_id", "segmentations")} | {"score": 0.9}
        for row in tree["annotations"]
    ]
    figures = evaluate(truth, read_results(rows, truth))
    assert figures["AP"] == pytest.approx(1.0)
    for row in tree["annotations"]:
        for box, area, segmentation in zip(row["bboxes"], row["areas"], row["segmentations"], strict=True):
            assert (box is None) == (area is None) == (segmentation is None)
            if area is not None:
                assert area == int(coco.area(segmentation))
                assert box == coco.toBbox(segmentation).tolist()


def test_workers_change_nothing(tmp_path: Path) -> None:
    done: list[int] = []
    one = write_frozen("sprites", "test", tmp_path / "one", num_videos=2)
    two = write_frozen("sprites", "test", tmp_path / "two", num_videos=2, workers=2, progress=done.append)
    assert done == [1, 2]
    files = sorted(path.relative_to(one.parent) for path in one.parent.rglob("*") if path.is_file())
    assert len(files) == 81
    for file in files:
        assert (one.parent / file).read_bytes() == (two.parent / file).read_bytes()


def test_decoys_small_things_and_slivers_have_no_mask() -> None:
    ids = np.zeros((3, 16, 16), np.uint16)
    ids[0, 0, :] = 1  # 16 pixels, then 3, then none
    ids[1, 0, :3] = 1
    ids[:, 2, :11] = 2  # never twelve pixels
    ids[:, 4:8] = 3  # a decoy
    ids[1:, 9:12, 2:7] = 4
    video = FrozenVideo(np.zeros((3, 16, 16, 3), np.uint8), ids, (0, 1, DECOY, 7), "")
    first, second = annotation_rows(video, video_id=5, class_list="sprites")
    assert (first["category_id"], first["areas"]) == (1, [16, None, None])
    assert (second["category_id"], second["areas"]) == (8, [None, 15, 15])
    assert second["bboxes"] == [None, [2.0, 9.0, 5.0, 3.0], [2.0, 9.0, 5.0, 3.0]]
    assert np.array_equal(CropRLE.from_coco(second["segmentations"][2]).decode(16, 16), ids[2] == 4)


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set must be one of street, sprites, got 'sea'"):
        write_frozen("sea", "val", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split must be one of val, test, got 'train'"):
        frozen_scene("street", "train", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="video must be 0 to 199, got 200"):
        frozen_scene("street", "val", 200)
    with pytest.raises(ValueError, match="num_videos must be 1 to 200, got 201"):
        write_frozen("street", "val", tmp_path, num_videos=201)
    with pytest.raises(ValueError, match="workers"):
        write_frozen("street", "val", tmp_path, workers=0)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_keeps_no_ground_truth(tmp_path: Path) -> None:
    """A JSON left from before would promise frames that are half replaced."""
    path = write_frozen("sprites", "val", tmp_path, num_videos=1)
    for image in (tmp_path / "frames" / "00000").iterdir():
        image.unlink()
    (tmp_path / "frames" / "00000").rmdir()
    (tmp_path / "frames" / "00000").write_bytes(b"in the way")
    with pytest.raises(OSError, match="00000"):
        write_frozen("sprites", "val", tmp_path, num_videos=1)
    assert not path.exists()


def test_the_verbs_write_videos_and_a_contact_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "frozen"
    arguments = ["--set", "sprites", "--split", "val", "--output", str(out), "--num-videos", "1"]
    assert main(["data-freeze", *arguments]) == 0
    assert len(open_annotated(out).truth.videos) == 1
    sheet = tmp_path / "sheet.png"
    assert main(["data-preview", "--set", "sprites", "--clips", "2", "--output", str(sheet)]) == 0
    picture = cv2.imread(str(sheet))
    assert picture is not None
    assert picture.shape == (196, 2 * (4 * 320 + 4), 3)
    capsys.readouterr()
    assert main(["data-freeze"]) == 1
    assert "either --output DIR or --hashes" in capsys.readouterr().err
    assert main(["data-preview", "--set", "sprites", "--photos", ".", "--output", str(sheet)]) == 1
    assert "--photos and --figures are for --set street" in capsys.readouterr().err
