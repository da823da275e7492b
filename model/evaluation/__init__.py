"""Metrics of video instance segmentation on files in the YouTube-VIS JSON formats (docs/evaluation.md)."""
