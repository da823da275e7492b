"""Planes computed from a camera's frames: what differs from the background, what moves, cuts."""
