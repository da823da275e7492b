"""Records the overlay of each source as an H.264 mp4 with the source's own timing.

Variable frame rate: a frame stands at the stream time it was taken, from 0 at the first one of its file. Each
frame is written once, in order, in its last revision: a result that is not final waits (bounded) for the one
that is. An older recording of the same name stays whole until the new one is (`pipeline.sinks.mp4`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from pipeline.config import RecordConfig
from pipeline.errors import OutputError
from pipeline.sinks.mp4 import check_encoder
from pipeline.sinks.overlay import Painter
from pipeline.sinks.recording import Recording
from pipeline.types import End, FrameResult, Gap, SourceState

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""After a fault a new file is tried so often."""
# Twice the longest window: a result that waits longer for its final revision than that will not get one.
_MAX_WAITING = 72


class Recorder:
    """Sink that writes one mp4 per source.

    `path_template` holds `{source}` where there are several sources; missing folders are made. All paths
    and the encoder's options are tried when it is made, before any frame is read: OutputError names path
    and remedy. ValueError where several sources would share a file. The picture keeps the size of the
    file's first frame (odd sizes are padded to even ones); later frames of another size are fitted into it
    with black bars. `painter` is shared with other sinks, or made here with `note` as its remark.

    One source's fault is not another's: what is not recorded is counted (`num_lost`), and the source goes on
    in a new file as soon as that works, tried every `retry_seconds`.
    """

    def __init__(
        self,
        path_template: str | Path,
        config: RecordConfig,
        *,
        sources: Sequence[str],
        note: str | None = None,
        painter: Painter | None = None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        template = str(path_template)
        if len(sources) > 1 and "{source}" not in template:
            raise ValueError(
                f"record path {template!r} needs {{source}} in its name with {len(sources)} sources"
            )
        self._painter = painter or Painter(note=note)
        check_encoder(config)
        self._waiting: dict[str, dict[int, FrameResult]] = {source: {} for source in sources}
        self._last_index = dict.fromkeys(sources, -1)
        self._recordings: dict[str, Recording] = {}
        try:
            for source in sources:
                self._recordings[source] = Recording(
                    template.replace("{source}", source), config, retry_seconds=retry_seconds
                )
        except BaseException:
            self.close()
            raise

    @property
    def paths(self) -> dict[str, Path]:
        """Source id → the path it is recorded to; rotated files are named after it."""
        return {source: recording.path for source, recording in self._recordings.items()}

    @property
    def num_lost(self) -> dict[str, int]:
        """Source id → frames that are in no file."""
        return {source: recording.num_lost for source, recording in self._recordings.items()}

    def start(self) -> None:
        """Nothing to do: files are opened with the first frame, when its size is known."""

    def write(self, result: FrameResult) -> None:
        """Take a result; the frame is written as soon as it and all frames before it are final.

        Raises OutputError for a fault of the source's file (disk full), also where a new file took the frame.
        """
        waiting = self._waiting[result.source]
        index = result.frame.index
        if index <= self._last_index[result.source]:
            logger.debug(
                "%s: frame %d is already recorded, revision %d comes too late",
                result.source,
                index,
                result.revision,
            )
            return
        waiting[index] = result
        ready = []
        while waiting:
            first = min(waiting)
            if not waiting[first].final and len(waiting) <= _MAX_WAITING:
                break
            ready.append(waiting.pop(first))
        self._encode(ready)

    def gap(self, gap: Gap) -> None:
        """Write what still waits; the frames after the gap continue the same file."""
        try:
            self._flush(gap.source)
        finally:
            self._recordings[gap.source].timeline.gap(gap)

    def state(self, source: str, state: SourceState) -> None:
        """A recording holds frames only."""

    def poll(self) -> None:
        """Nothing to do between frames."""

    def end(self, end: End) -> None:
        """Write what still waits and finish the source's file."""
        try:
            self._flush(end.source)
        finally:
            self._recordings[end.source].close()

    def close(self) -> None:
        """Finish all files, also after a failure; may be called again. Raises the first OutputError last."""
        faults: list[OutputError] = []
        for source, recording in self._recordings.items():
            for step in (partial(self._flush, source), recording.close):
                try:
                    step()
                except OutputError as error:
                    faults.append(error)
        if faults:
            raise faults[0]

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _flush(self, source: str) -> None:
        waiting = self._waiting[source]
        self._encode([waiting.pop(index) for index in sorted(waiting)])

    def _encode(self, results: Sequence[FrameResult]) -> None:
        """Record the results in order; the first fault is raised when all were tried."""
        faults: list[Exception] = []
        for result in results:
            self._last_index[result.source] = result.frame.index
            try:
                self._record(result)
            except Exception as error:
                faults.append(error)
        if faults:
            raise faults[0]

    def _record(self, result: FrameResult) -> None:
        recording = self._recordings[result.source]
        if recording.waits:
            raise recording.skip(result.frame)
        try:
            picture = self._painter(result)
        except Exception:
            recording.num_lost += 1
            raise
        recording.write(picture, result.frame)
