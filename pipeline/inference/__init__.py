"""Frames → windows → what a model says of them."""
