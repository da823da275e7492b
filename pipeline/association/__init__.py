"""Candidates of windows → tracks with stable ids → the frames' results (docs/association.md)."""
