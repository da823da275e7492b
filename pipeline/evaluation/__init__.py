"""The live stages over an annotated data set (docs/evaluation.md)."""
