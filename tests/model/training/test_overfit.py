"""A tiny network learns four clips by heart, measured as any network is: YouTube-VIS AP of whole windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.toy_clips import ToyClips
from support.training_runs import averaged_network, stage, tiny_options, trainer
from support.ytvis import evaluate_files, rle

from model.network import Network
from model.postprocess import ComingCandidates
from model.training.batch import make_batch
from model.training.data.clip import TrainingClip

NUM_CLIPS, NUM_FRAMES, HEIGHT, WIDTH = 4, 2, 64, 96
RATE: dict[str, Any] = {"learning_rate": 3e-3, "warmup_steps": 10, "clip_norm": 1.0}


def ground_truth(clips: list[TrainingClip]) -> dict[str, Any]:
    annotations = [
        {
            "id": 100 * video + index + 1,
            "video_id": video,
            "category_id": 1,
            "iscrowd": 0,
            "segmentations": [rle(mask) if mask.any() else None for mask in masks],
        }
        for video, clip in enumerate(clips, start=1)
        for index, masks in enumerate(clip.masks)
    ]
    return {
        "videos": [
            {"id": video, "height": HEIGHT, "width": WIDTH, "length": NUM_FRAMES}
            for video in range(1, len(clips) + 1)
        ],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": annotations,
    }


@torch.no_grad()
def results_of(network: Network, clips: list[TrainingClip]) -> list[dict[str, Any]]:
    """Every candidate of every window, masks at full size."""
    results = []
    for video, clip in enumerate(clips, start=1):
        batch = make_batch([clip])
        (found,) = ComingCandidates(network(batch.normalised(), batch.cues), network.config).wait()
        logits = torch.from_numpy(found.mask_logits)
        masks = F.interpolate(logits, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False) > 0
        results += [
            {
                "video_id": video,
                "category_id": 1,
                "score": float(score.max()),
                "segmentations": [rle(mask) if mask.any() else None for mask in track],
            }
            for score, track in zip(found.scores, masks.numpy(), strict=True)
        ]
    return results


@pytest.mark.timeout(600)
def test_a_tiny_network_learns_four_clips_by_heart(tmp_path: Path) -> None:
    options = tiny_options(
        stage("dense", steps=40, batch_size=4, num_frames=1, dense_only=True, **RATE),
        stage("clip", steps=45, batch_size=4, num_frames=NUM_FRAMES, num_denoising=6, **RATE),
        network={"dropout": 0.0, "height": HEIGHT, "width": WIDTH},
        ema_decay=0.9,
    )
    source = ToyClips(num_clips=NUM_CLIPS, height=HEIGHT, width=WIDTH)
    run = trainer(options, tmp_path, source=source)
    clips = [source(index, num_frames=NUM_FRAMES) for index in range(NUM_CLIPS)]
    truth = ground_truth(clips)
    untrained = evaluate_files(truth, results_of(averaged_network(run), clips))
    assert untrained["AP50"] < 0.3
    run.run()
    learnt = evaluate_files(truth, results_of(averaged_network(run), clips))
    assert learnt["AP50"] >= 0.95, learnt
    assert learnt["AP"] >= 0.6, learnt
    assert np.isfinite(list(learnt.values())).all()
