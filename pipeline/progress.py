"""A progress bar on stderr for each file; live sources have no end to measure against and get none."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Never, TextIO

from tqdm import tqdm

from pipeline.types import End, FrameResult, Gap, SourceState


class Progress:
    """Sink that counts the frames of files.

    `totals` maps the id of each file source to its number of frames, or None where the container does not
    say; sources that are not in it (live ones) are ignored. Frames that the cadence skips count as done:
    the bar shows how far the file is read. Nothing is shown unless `stream` (stderr) is a terminal or
    `force` is set.
    """

    def __init__(
        self, totals: Mapping[str, int | None], *, force: bool = False, stream: TextIO | None = None
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._shown = force or self._stream.isatty()
        self._totals = dict(totals)
        self._bars: dict[str, tqdm[Never]] = {}

    def start(self) -> None:
        """Show the bars at 0: opening a model can take a while."""
        for position, (source, total) in enumerate(self._totals.items()):
            self._bars[source] = tqdm(
                total=total,
                desc=source,
                unit=" frames",
                file=self._stream,
                disable=not self._shown,
                dynamic_ncols=True,
                position=position,
            )

    def write(self, result: FrameResult) -> None:
        """Move the bar to the result's frame; later revisions of earlier frames do not move it back."""
        bar = self._bars.get(result.source)
        if bar is None or result.frame.index < bar.n:
            return
        visible = sum(instance.mask is not None for instance in result.instances)
        bar.set_postfix_str(f"{visible} instances", refresh=False)
        bar.update(result.frame.index + 1 - bar.n)

    def gap(self, gap: Gap) -> None:
        """A gap does not change how far the file is read."""

    def state(self, source: str, state: SourceState) -> None:
        """The bar says enough."""

    def poll(self) -> None:
        """Redraw, so that rate and time left do not stand still."""
        for bar in self._bars.values():
            bar.refresh()

    def end(self, end: End) -> None:
        """Leave the source's bar as it stands, with the reason where that is not the file's end."""
        bar = self._bars.pop(end.source, None)
        if bar is None:
            return
        if end.reason == "end_of_file" and bar.total is not None:
            bar.update(bar.total - bar.n)
        elif end.reason != "end_of_file":
            bar.set_postfix_str(end.reason, refresh=False)
        bar.refresh()
        bar.close()

    def close(self) -> None:
        """Let go of the terminal; may be called again."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()
