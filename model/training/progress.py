"""What a run shows and keeps of its course: a line on the terminal, a CSV of the loss terms, their curves."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

_COLOURS = ((40, 40, 220), (200, 120, 30), (40, 160, 40), (180, 60, 180), (30, 160, 220), (90, 90, 90))


class CourseLog:
    """Appends one row per logged step to a CSV and draws the curves from it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.csv"
        folder.mkdir(parents=True, exist_ok=True)

    def cut(self, step: int) -> None:
        """Drop rows of steps after `step`: a run that is resumed there writes them again."""
        if not self.path.is_file():
            return
        rows = read_log(self.path)
        self.path.unlink()
        for row in rows:
            if int(row["step"]) <= step:
                self._append(row)

    def add(
        self, *, step: int, stage: str, rate: float, windows_per_second: float, terms: Mapping[str, float]
    ) -> None:
        """One row; terms are the means since the last one."""
        row = {
            "step": str(step),
            "stage": stage,
            "rate": f"{rate:.3g}",
            "windows_per_second": f"{windows_per_second:.3f}",
        }
        self._append(row | {"terms": " ".join(f"{name}={value:.5g}" for name, value in terms.items())})

    def _append(self, row: Mapping[str, str]) -> None:
        new = not self.path.is_file()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", "stage", "rate", "windows_per_second", "terms"])
            if new:
                writer.writeheader()
            writer.writerow(row)


def read_log(path: Path) -> list[dict[str, str]]:
    """Rows of a log."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw_curves(log: Path, picture: Path) -> None:
    """PNG of every loss term over the steps, a panel each, on a logarithmic scale."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in read_log(log):
        for item in row["terms"].split():
            name, _, value = item.partition("=")
            series.setdefault(name, []).append((float(row["step"]), float(value)))
    if not series:
        return
    last = max(points[-1][0] for points in series.values())
    columns, width, height = 4, 320, 160
    rows = -(-len(series) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, (name, points) in enumerate(series.items()):
        y0, x0 = (index // columns) * height, (index % columns) * width
        steps, values = (np.array(column) for column in zip(*points, strict=True))
        logs = np.log10(np.maximum(values, 1e-6))
        low, high = float(logs.min()), float(logs.max())
        x = x0 + 10 + steps / max(last, 1) * (width - 20)
        y = y0 + height - 12 - (logs - low) / max(high - low, 1e-3) * (height - 40)
        line = np.stack((x, y), axis=-1).astype(np.int32)
        colour = _COLOURS[index % len(_COLOURS)]
        cv2.polylines(sheet, [line[:, None]], False, colour, 1, cv2.LINE_AA)
        text = f"{name}  {values[-1]:.3g}  ({10**low:.2g} to {10**high:.2g})"
        cv2.putText(sheet, text, (x0 + 8, y0 + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        cv2.rectangle(sheet, (x0, y0), (x0 + width - 1, y0 + height - 1), (220, 220, 220))
    cv2.imwrite(str(picture), sheet)


class StatusLine:
    """One line on stderr: rewritten on a terminal, every half a minute elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = 0.0

    def show(self, text: str, *, last: bool = False) -> None:
        """Show the text if it is time for it, or if it is a stage's last."""
        now = time.monotonic()
        if now < self._next and not last:
            return
        self._next = now + (0.5 if self._terminal else 30.0)
        ends = "\n" if last or not self._terminal else ""
        start = "\r\x1b[K" if self._terminal else ""
        sys.stderr.write(f"{start}{text}{ends}")
        sys.stderr.flush()
