"""The inference thread: items of all sources in, results out, in order; a thread that prepares what is next.

A predictor on a device works beside its caller. With one that says so (`overlaps`) a window is begun before
the one before it is finished, so that tracks and masks of the one are made while the device is at the other:
two are open at most. Results and their order are those of one after the other, since every window is brought
into its tracks before anything that follows it: frames that are only held, gaps and ends. Where nothing waits
to be begun, what is open is finished at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from pipeline.config import StreamConfig
from pipeline.inference.predictor import (
    MAX_AHEAD,
    BatchingPredictor,
    Finish,
    OverlappingPredictor,
    Predictor,
    PreparingPredictor,
)
from pipeline.live.queues import LaneQueue
from pipeline.live.source_run import SourceRun
from pipeline.types import End, Frame, FrameResult, Gap, Window, WindowPrediction

_MAX_HELD = 64
"""Full-size frames between two model frames that may wait for their window (`cadence.hold`)."""


class _Taken(NamedTuple):
    """An item that was taken from the queue."""

    name: str
    item: Frame | Gap | End
    prepared: Future[None] | None
    """Of a frame for the model, where the predictor prepares frames."""

    @property
    def for_model(self) -> bool:
        return isinstance(self.item, Frame) and self.item.sampled

    @property
    def is_prepared(self) -> bool:
        return self.prepared is None or self.prepared.done()


class _Begun(NamedTuple):
    """Windows that were begun, one of a source."""

    windows: Mapping[str, Window]
    held: Mapping[str, list[Frame]]
    """The frames between their frames."""
    at_ns: int
    """Monotonic clock."""
    finish: Finish


class Inference:
    """From the queue of frames to that of results; `run` is the thread's work, all else is its alone."""

    def __init__(
        self,
        config: StreamConfig,
        predictor: Predictor,
        runs: Mapping[str, SourceRun],
        *,
        frames: LaneQueue[Frame | Gap | End],
        results: LaneQueue[FrameResult | Gap | End],
    ) -> None:
        self._config = config
        self._predictor = predictor
        self._runs = runs
        self._frames = frames
        self._results = results
        self._prepare: Callable[[Frame], None] | None = None
        if isinstance(predictor, PreparingPredictor) and predictor.prepares:
            self._prepare = predictor.prepare
        self._overlapping = (
            predictor if isinstance(predictor, OverlappingPredictor) and predictor.overlaps else None
        )
        self._batching = predictor if isinstance(predictor, BatchingPredictor) else None
        batches = self._overlapping is not None or self._batching is not None
        self._max_batch = config.model.max_batch if batches else 1
        self._begun: _Begun | None = None

    def run(self) -> None:
        """Deal with items until every source has ended, or the queue of frames is closed.

        Raises what a stage raises.
        """
        open_runs = set(self._runs)
        ahead: deque[_Taken] = deque()
        ready: dict[str, Window] = {}
        with ThreadPoolExecutor(1, thread_name_prefix="prepare") as preparing:
            try:
                while open_runs:
                    waits = bool(ready) or self._begun is not None
                    taken = ahead.popleft() if ahead else self._take(preparing, 0.0 if waits else None)
                    if self._frames.closed:
                        return
                    if ready and (taken is None or taken.name in ready or not taken.is_prepared):
                        self._take_windows(ready)
                    elif taken is None:
                        self._finish_begun()
                    if taken is None:
                        continue
                    self._look_ahead(preparing, taken, ahead)
                    if taken.prepared is not None:
                        if not taken.is_prepared:
                            self._finish_begun()
                        taken.prepared.result()
                        self._look_ahead(preparing, taken, ahead)  # what came meanwhile
                    window = self._handle(taken.name, taken.item)
                    if window is not None:
                        ready[taken.name] = window
                        if len(ready) == self._max_batch:
                            self._take_windows(ready)
                    if isinstance(taken.item, End):
                        open_runs.discard(taken.name)
            finally:
                preparing.shutdown(wait=False, cancel_futures=True)

    def _take(self, preparing: ThreadPoolExecutor, timeout_seconds: float | None) -> _Taken | None:
        """The next item; a frame for the model is prepared from here on."""
        got = self._frames.get(timeout_seconds)
        if got is None:
            return None
        name, item = got
        if self._prepare is None or not isinstance(item, Frame) or not item.sampled:
            return _Taken(name, item, None)
        return _Taken(name, item, preparing.submit(self._prepare_timed, self._prepare, item))

    def _prepare_timed(self, prepare: Callable[[Frame], None], frame: Frame) -> None:
        begun = time.monotonic_ns()
        prepare(frame)
        self._runs[frame.source].latency["prepare"].add((time.monotonic_ns() - begun) / 1e6)

    def _look_ahead(self, preparing: ThreadPoolExecutor, now: _Taken, ahead: deque[_Taken]) -> None:
        """Take what waits already, a window's worth of frames for the model, so that they are prepared while
        `now` is dealt with; frames that are only held count among the MAX_AHEAD.

        Nothing is taken beyond a gap or an end: a frame after it is prepared when what was before is
        forgotten.
        """
        if self._prepare is None:
            return
        last = ahead[-1] if ahead else now
        wanted = self._config.window.stride * self._max_batch - sum(taken.for_model for taken in ahead)
        while wanted > 0 and len(ahead) < MAX_AHEAD and isinstance(last.item, Frame):
            following = self._take(preparing, 0.0)
            if following is None:
                return
            ahead.append(following)
            last = following
            wanted -= last.for_model

    def _handle(self, name: str, item: Frame | Gap | End) -> Window | None:
        """Deal with an item, up to the window that a frame completes."""
        run = self._runs[name]
        if isinstance(item, Frame):
            run.epoch = item.epoch
            if item.sampled:
                return run.windower.push(item)
            self._take_held(run, item)
            return None
        window = run.windower.flush()
        if window is not None:
            self._take_windows({name: window})
        self._finish_begun()
        self._emit(run, self._release_held(run, []))
        self._emit(run, run.associator.gap() if isinstance(item, Gap) else run.associator.flush())
        self._predictor.forget(name)
        self._results.put(name, item)
        return None

    def _take_held(self, run: SourceRun, frame: Frame) -> None:
        run.held.append(frame)
        if len(run.held) > _MAX_HELD:
            del run.held[0]
            run.ledger.count_dropped("stale")
        if run.windower.num_pending == 0:
            self._finish_begun()
            self._emit(run, self._release_held(run, []))

    def _take_windows(self, windows: dict[str, Window]) -> None:
        """Begin with the windows, one of a source, in one batch; then finish those that were begun before,
        and these too where the predictor does not work beside us. Empties `windows`."""
        at_ns = time.monotonic_ns()
        finish = self._begin(list(windows.values()))
        held = {name: self._runs[name].held for name in windows}
        for name in windows:
            self._runs[name].held = []
        self._finish_begun()
        self._begun = _Begun(dict(windows), held, at_ns, finish)
        windows.clear()
        if self._overlapping is None:
            self._finish_begun()

    def _begin(self, windows: list[Window]) -> Finish:
        if self._overlapping is not None:
            return self._overlapping.begin(windows)
        if len(windows) == 1:
            predictions = [self._predictor.predict(windows[0])]
        else:
            assert self._batching is not None
            predictions = self._batching.predict_batch(windows)
        return lambda: predictions

    def _finish_begun(self) -> None:
        """Wait for the windows that were begun, if any, and bring each into its tracks."""
        begun, self._begun = self._begun, None
        if begun is None:
            return
        predictions = begun.finish()
        predicted_ns = time.monotonic_ns()
        for (name, window), prediction in zip(begun.windows.items(), predictions, strict=True):
            run = self._runs[name]
            run.latency["predict"].add((predicted_ns - begun.at_ns) / 1e6)
            run.latency["queue"].add((begun.at_ns - window.new[-1].captured_monotonic_ns) / 1e6)
            self._associate(run, window, prediction, begun.held[name])

    def _associate(
        self, run: SourceRun, window: Window, prediction: WindowPrediction, held: list[Frame]
    ) -> None:
        since = time.monotonic_ns()
        results = run.associator.update(window, prediction)
        run.latency["associate"].add((time.monotonic_ns() - since) / 1e6)
        run.num_windows += 1
        self._emit(run, _in_time(run, held, results))

    def _release_held(self, run: SourceRun, results: list[FrameResult]) -> list[FrameResult]:
        """Return `results` with the run's held frames in their places in time."""
        held, run.held = run.held, []
        return _in_time(run, held, results)

    def _emit(self, run: SourceRun, results: list[FrameResult]) -> None:
        for result in results:
            dropped = self._results.put(
                run.name,
                result,
                capacity=self._config.queue.results,
                when_full="drop_oldest" if run.source.live else "wait",
            )
            if not isinstance(dropped, FrameResult) or dropped is result:
                continue
            if dropped.revision == 0:
                run.ledger.count_dropped("publisher")
                if not dropped.final:
                    run.skipped.add(dropped.frame.index)
            else:
                run.skipped.discard(dropped.frame.index)
                run.ledger.count_revision_dropped()


def _in_time(run: SourceRun, held: list[Frame], results: list[FrameResult]) -> list[FrameResult]:
    """The results and those of held frames, with the instances known now, in the order of their frames."""
    if not held:
        return results
    return sorted([*results, *map(run.associator.hold, held)], key=lambda result: result.frame.index)
