"""A progress bar on stderr for each file; live sources have no end to measure against and get none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Never, TextIO

from tqdm import tqdm

from pipeline.types import End, FrameResult, Gap, SourceState


class Progress:
    """Sink that counts the frames of files.

    `num_frames` maps the id of each file source to a function that returns its number of frames, None as
    long as that is not known (a file is opened after its sinks); a bar without a total counts only. Sources
    that are not in the map (live ones) are ignored. `max_frames` is where the stream stops reading. Frames
    that the cadence skips count as done: the bar shows how far the file is read. Nothing is shown unless
    `stream` (stderr) is a terminal or `force` is set.
    """

    def __init__(
        self,
        num_frames: Mapping[str, Callable[[], int | None]],
        *,
        max_frames: int | None = None,
        force: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._shown = force or self._stream.isatty()
        self._num_frames = dict(num_frames)
        self._max_frames = max_frames
        self._bars: dict[str, tqdm[Never]] = {}

    def start(self) -> None:
        """Show the bars at 0."""
        for position, source in enumerate(self._num_frames):
            self._bars[source] = tqdm(
                desc=source,
                total=self._total(source),
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
        if bar.total is None:
            bar.total = self._total(result.source)
        visible = sum(instance.visible for instance in result.instances)
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
        else:
            bar.set_postfix_str(end.reason, refresh=False)
        bar.refresh()
        bar.close()

    def close(self) -> None:
        """Let go of the terminal; may be called again."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def _total(self, source: str) -> int | None:
        total = self._num_frames[source]()
        if total is None or self._max_frames is None:
            return total
        return min(total, self._max_frames)
