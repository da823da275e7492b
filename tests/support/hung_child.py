"""The command line with a model that stops answering; run by tests of stopping.

Arguments: `where` (begin, finish or prepare of the model; sink; or blocked: a sink that waits within a
library, where no signal is heard), the window (or frame, or result) that never comes back, the command
line's own.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Sequence

from support.predictors import FixedPredictor

import pipeline.live.stream
import pipeline.live.watchdog
import run_stream
from pipeline.inference.predictor import Capabilities, Finish
from pipeline.sinks.progress import Progress
from pipeline.types import Frame, FrameResult, Window, WindowPrediction


class Hanging(FixedPredictor):
    """Answers until it hangs, for ever."""

    def __init__(self, where: str, last: int) -> None:
        super().__init__(num_masks=3, num_frames=3)
        self.capabilities = Capabilities(prepare=self.prepare if where == "prepare" else None)
        self._where = where
        self._left = last

    def _come_to(self, where: str) -> None:
        if where == self._where:
            self._left -= 1
            if self._left < 0:
                threading.Event().wait()

    def prepare(self, frame: Frame) -> None:
        """Nothing to prepare."""
        self._come_to("prepare")

    def begin(self, windows: Sequence[Window]) -> Finish:
        """Answer, or not."""
        self._come_to("begin")

        def finish() -> list[WindowPrediction]:
            self._come_to("finish")
            return [self.predict(window) for window in windows]

        return finish


class HangingSink(Progress):
    """Takes results until it hangs, for ever."""

    def __init__(self, where: str, last: int) -> None:
        super().__init__({})
        self._where = where
        self._last = last

    def write(self, result: FrameResult) -> None:
        """Take it, or not."""
        if result.frame.index == self._last and self._where == "sink":
            threading.Event().wait()
        if result.frame.index == self._last and self._where == "blocked":
            ctypes.CDLL(None).pthread_mutex_lock(_locked_mutex())


def _locked_mutex() -> ctypes.Array[ctypes.c_char]:
    """A mutex that its owner locks once more: it waits for ever, and no signal wakes it."""
    mutex = ctypes.create_string_buffer(128)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
    return mutex


if __name__ == "__main__":
    where, last = sys.argv[1], int(sys.argv[2])
    if where in ("sink", "blocked"):
        build = pipeline.live.stream.build_sinks
        pipeline.live.stream.build_sinks = lambda context: {  # type: ignore[assignment]
            **build(context),
            "display": HangingSink(where, last),
        }
    pipeline.live.stream.load_predictor = lambda config: Hanging(where, last)  # type: ignore[assignment]
    pipeline.live.watchdog.HUNG_SECONDS = 1.0
    del sys.argv[1:3]
    run_stream.leave()
