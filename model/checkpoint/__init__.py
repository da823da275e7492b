"""Weights in files: ours, the published layout, a detector of another project; blends of two."""

from __future__ import annotations

from model.checkpoint.weights_file import load_seqformer, load_weights, save_weights

__all__ = ["load_seqformer", "load_weights", "save_weights"]
