"""Drawn people, animals, vehicles, clutter and streets."""
