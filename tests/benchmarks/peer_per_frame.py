"""A peer of the stream: a per-frame segmentation network with a box tracker, from the ultralytics package.

    PYTHON tests/benchmarks/peer_per_frame.py CLIP [--frames N] [--full-size-masks]

Run by the interpreter that has the package, with nothing of this project. The package's licence is the AGPL:
it is no dependency of this project and nothing of it is copied; it is run as it is, if the user has installed
it (`pip install ultralytics lap`). Exit code 3 and a line on stderr where it is missing.

Its smallest segmentation network (2.9 M parameters) from its YAML, with random weights: for speed alone,
masks and tracks mean nothing. Random weights as they are find nothing, which would spare the package half of
its work: batch norms take the statistics of the clip's first picture, and class biases are moved until some
30 cells pass the threshold, so that suppression, masks of 10 instances and ByteTrack work as in a busy scene.
Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from itertools import islice
from typing import Any

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")

HEIGHT, WIDTH = 192, 320
NUM_PASSING, NUM_KEPT = 30, 10
THRESHOLD = 0.25
WARM_UP = 8
MISSING = 3


def pictures(clip: str) -> Any:
    """Decoded frames, (H, W, 3) uint8 BGR as the package wants them, by OpenCV: it comes with the package."""
    import cv2

    video = cv2.VideoCapture(clip)
    if not video.isOpened():
        raise SystemExit(f"{clip} cannot be read by OpenCV")
    while True:
        good, picture = video.read()
        if not good:
            return
        yield picture


def wake(network: Any, picture: Any) -> None:
    """Fit batch norms to this picture, and move class biases so that NUM_PASSING of its cells score above
    THRESHOLD."""
    import cv2
    import torch

    image = torch.from_numpy(cv2.resize(picture, (WIDTH, HEIGHT))).permute(2, 0, 1)[None].float() / 255
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        network.train()(image)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        found = network.eval()(image)
    while isinstance(found, (tuple, list)):
        found = found[0]
    num_classes = network.model[-1].nc
    best = found[0, 4 : 4 + num_classes].amax(dim=0).clamp(1e-9, 1 - 1e-6).logit()
    wanted = torch.tensor(THRESHOLD + 0.02).logit()
    shift = float(wanted - best.sort(descending=True).values[NUM_PASSING])
    with torch.no_grad():
        for branch in network.model[-1].cv3:
            branch[-1].bias += shift


def run(clip: str, *, num_frames: int, model: str, full_size: bool) -> dict[str, Any]:
    """Frames a second after the first WARM_UP, cores kept busy, instances a frame, versions."""
    import torch
    import ultralytics

    torch.manual_seed(0)
    yolo = ultralytics.YOLO(model, task="segment")
    wake(yolo.model, next(iter(pictures(clip))))
    started, processor, num_found, num_tracked, done = 0.0, 0.0, 0, 0, 0
    for picture in islice(pictures(clip), num_frames):
        (result,) = yolo.track(
            picture,
            persist=True,
            tracker="bytetrack.yaml",
            imgsz=(HEIGHT, WIDTH),
            conf=THRESHOLD,
            max_det=NUM_KEPT,
            retina_masks=full_size,
            device="cpu",
            verbose=False,
        )
        num_found += 0 if result.masks is None else len(result.masks.data)
        num_tracked += 0 if result.boxes.id is None else len(result.boxes.id)
        done += 1
        if done == WARM_UP:
            started, processor, num_found, num_tracked = time.perf_counter(), time.process_time(), 0, 0
    if done <= WARM_UP:
        raise SystemExit(f"{clip}: {done} frames are too few, give at least {WARM_UP + 1}")
    spent = time.perf_counter() - started
    return {
        "fps": (done - WARM_UP) / spent,
        "cores": (time.process_time() - processor) / spent,
        "masks": num_found / (done - WARM_UP),
        "tracked": num_tracked / (done - WARM_UP),
        "threads": torch.get_num_threads(),
        "parameters": sum(each.numel() for each in yolo.model.parameters()),
        "versions": f"ultralytics {ultralytics.__version__}, torch {torch.__version__}",
    }


def main() -> int:
    """Print the metrics."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--model", default="yolo11n-seg.yaml", help="a segmentation YAML of the package")
    parser.add_argument(
        "--full-size-masks", action="store_true", help="masks in source pixels, not the input's"
    )
    args = parser.parse_args()
    try:
        import ultralytics  # noqa: F401
    except ImportError as error:
        print(f"not installed: {error}; pip install ultralytics lap", file=sys.stderr)
        return MISSING
    print(
        json.dumps(run(args.clip, num_frames=args.frames, model=args.model, full_size=args.full_size_masks))
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
