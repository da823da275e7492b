"""The evaluation's Python calls under their published path (docs/evaluation.md)."""

from __future__ import annotations

from pipeline.evaluation.annotated import AnnotatedVideos, open_annotated
from pipeline.evaluation.evaluate import Mode, Predictions, evaluate_dataset, metrics_of, predict_dataset

__all__ = [
    "AnnotatedVideos",
    "Mode",
    "Predictions",
    "evaluate_dataset",
    "figures_of",
    "metrics_of",
    "open_annotated",
    "predict_dataset",
]

figures_of = metrics_of
"""The name under which `metrics_of` was published first."""
