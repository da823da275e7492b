"""Metrics of an evaluation as text for people; percent, with "-" where nothing was to be found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Return one line per AP and AR, then the metrics of single frames where there are any, then the rest."""
    lines = [
        f"{name:<12}{percent(value)}" for name, value in metrics.items() if name.startswith(("AP", "AR"))
    ]
    rest = [
        f"{name:<22}{value:>8}"
        for name, value in metrics.items()
        if name != "frames" and not name.startswith(("AP", "AR"))
    ]
    frames = metrics.get("frames")
    if frames is None:
        return "\n".join(lines + rest)
    lines.append("single frames and identities:")
    for name, value in frames.items():
        if isinstance(value, float):
            lines.append(f"  {name:<20}{percent(value)}")
        elif isinstance(value, int):
            lines.append(f"  {name:<20}{value:>6}")
    for each in frames["recall_by_height"]:
        name = (
            f"recall {each['min']:g} px and up"
            if each["max"] is None
            else (f"recall {each['min']:g} to {each['max']:g} px")
        )
        lines.append(f"  {name:<20}{percent(each['recall'])}  of {each['num_frames']}")
    return "\n".join(lines + rest)


def percent(share: float) -> str:
    """Return a share in percent, six wide."""
    return f"{'-':>6}" if share < 0 else f"{100 * share:6.2f}"
