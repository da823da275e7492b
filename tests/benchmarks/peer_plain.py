"""A peer of the stream: decode, run the whole network on the last T frames, make masks, one after the other.

    python tests/benchmarks/peer_plain.py CLIP [--frames N]

What somebody writes around `model.load_weights` in an hour: the same default weights and the same masks in
source pixels, without windows, cache, engine, tracks, threads or messages. torch is left as it is. Prints one
line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.checkpoint.weights_file import load_weights, shipped_weights
from model.cues.state import CueState
from model.network import Network, Output
from ops.preprocess import Fit, fit_content, normalise_content

MIN_SCORE = 0.1


def pictures(clip: str) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Decoded frames, (H, W, 3) uint8 RGB, and their time in seconds."""
    with av.open(clip) as container:
        for index, picture in enumerate(container.decode(video=0)):
            yield picture.to_ndarray(format="rgb24"), picture.time if picture.time is not None else index / 30


def masks_of(output: Output, fit: Fit) -> Tensor:
    """Masks (N, H, W) bool of the newest frame's instances, in source pixels."""
    good = output.logits[0].sigmoid().amax(dim=-1) >= MIN_SCORE
    logits = output.mask_logits[0, good, -1][:, None]  # (N, 1, h, w)
    if not len(logits):
        return torch.zeros(0, fit.source_height, fit.source_width, dtype=torch.bool)
    logits = F.interpolate(logits, (fit.height, fit.width), mode="bilinear", align_corners=False)
    logits = logits[..., : fit.content_height, : fit.content_width]
    size = fit.source_height, fit.source_width
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0] > 0


@torch.inference_mode()
def run(network: Network, clip: str, *, num_frames: int) -> dict[str, float]:
    """Frames a second after the first T + 2, cores kept busy, and masks a frame."""
    config = network.config
    state = CueState(config.cues)
    clips: deque[tuple[Tensor, Tensor]] = deque(maxlen=config.num_frames)
    warm_up = config.num_frames + 2
    started, processor, num_masks, done = 0.0, 0.0, 0, 0
    for rgb, seconds in islice(pictures(clip), num_frames):
        content, fit = fit_content(rgb, height=config.height, width=config.width)
        planes = torch.zeros(config.num_cue_planes, fit.height, fit.width)
        planes[:, : fit.content_height, : fit.content_width] = torch.from_numpy(
            state.update(content, seconds)
        )
        clips.append((normalise_content(content, fit), planes))
        while len(clips) < config.num_frames:
            clips.append(clips[-1])
        images, cues = (torch.stack(each)[None] for each in zip(*clips, strict=True))
        num_masks += len(masks_of(network(images, cues if config.cues else None), fit))
        done += 1
        if done == warm_up:
            started, processor, num_masks = time.perf_counter(), time.process_time(), 0
    if done <= warm_up:
        raise SystemExit(f"{clip}: {done} frames are too few, give at least {warm_up + 1}")
    spent = time.perf_counter() - started
    return {
        "fps": (done - warm_up) / spent,
        "cores": (time.process_time() - processor) / spent,
        "masks": num_masks / (done - warm_up),
        "threads": torch.get_num_threads(),
    }


def main() -> int:
    """Print the metrics."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip")
    parser.add_argument("--frames", type=int, default=60)
    args = parser.parse_args()
    print(json.dumps(run(load_weights(shipped_weights()), args.clip, num_frames=args.frames)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
