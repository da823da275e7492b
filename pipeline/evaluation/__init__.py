"""The stages of a stream over an annotated data set (docs/evaluation.md)."""
