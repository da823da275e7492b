"""The verb evaluate: results next to ground truth."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any


def evaluate(arguments: Sequence[str]) -> None:
    """Compare results with ground truth, both in the YouTube-VIS JSON formats."""
    parser = argparse.ArgumentParser(prog="python -m model evaluate", description=evaluate.__doc__)
    parser.add_argument("--gt", required=True, metavar="FILE", help="ground truth: videos, annotations, …")
    parser.add_argument(
        "--results", required=True, metavar="FILE", help="a list of {video_id, category_id, score, …}"
    )
    parser.add_argument(
        "--frames", action="store_true", help="also metrics of single frames and of identities"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    from model.evaluation.dataset import read_ground_truth, read_results
    from model.evaluation.frame_metrics import frame_metrics
    from model.evaluation.report import format_metrics
    from model.evaluation.ytvis_ap import evaluate as evaluate_tracks

    truth = read_ground_truth(options.gt)
    results = read_results(options.results, truth)
    metrics: dict[str, Any] = {**evaluate_tracks(truth, results)}
    if options.frames:
        metrics["frames"] = frame_metrics(truth, results)
    print(json.dumps(metrics, indent=1) if options.json else format_metrics(metrics))
