"""The inference thread: items of all sources in, results out, in order; a thread that prepares what is next.

Five phases: take an item, look ahead at what waits behind it, begin windows that are complete, finish those
that were begun, emit the results. A predictor on a device works next to its caller. With one that says so
(`Capabilities.overlaps`) a window is begun before the one before it is finished: tracks and masks of the one
are made while the device works on the other. Two are open at most. Results and their order are those of one
after the other, since every window is brought into its tracks before anything that follows it: frames that
are only held, gaps and ends. Where nothing waits to be begun, what is open is finished at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.config import StreamConfig
from pipeline.health import Activity
from pipeline.inference.predictor import MAX_AHEAD, Finish, Predictor, check_predictions
from pipeline.live.queues import LaneQueue
from pipeline.live.source_run import SourceRun
from pipeline.live.worker import Worker
from pipeline.types import End, Frame, FrameResult, Gap, Window, WindowPrediction

_MODEL = "the model"
_JOIN_SECONDS = 1.0
"""How long the end waits for a frame that is being prepared."""
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


@dataclass
class _Underway:
    """What the loop has in its hands between two items."""

    open_runs: set[str]
    """Sources that have not ended."""
    ahead: deque[_Taken] = field(default_factory=deque)
    """Taken before their turn, so that they are prepared."""
    ready: dict[str, Window] = field(default_factory=dict)
    """Complete windows that wait to be begun, one of a source."""
    begun: _Begun | None = None
    """Windows that were begun and are not finished."""

    @property
    def waits(self) -> bool:
        """Whether there is work to go on with where no item waits."""
        return bool(self.ready) or self.begun is not None


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
        self._can = predictor.capabilities
        self._max_batch = config.model.max_batch if self._can.batches else 1
        self._runs = runs
        self._frames = frames
        self._results = results
        self._now = _Underway(set(runs))
        self.activity = Activity()
        """What the thread is at."""

    def run(self) -> None:
        """Deal with items until every source has ended, or the queue of frames is closed.

        Raises what a stage raises.
        """
        now = self._now
        preparing = Worker("prepare")
        try:
            while now.open_runs:
                taken = self._take(preparing)
                if self._frames.closed:
                    return
                if now.ready and (taken is None or taken.name in now.ready or not taken.is_prepared):
                    self._begin_ready()
                elif taken is None:
                    self._finish()
                if taken is None:
                    continue
                self._look_ahead(preparing, taken)
                self._wait_until_prepared(preparing, taken)
                self._handle(taken)
                if len(now.ready) == self._max_batch:
                    self._begin_ready()
        finally:
            self.activity.idle()
            preparing.close(_JOIN_SECONDS)

    # Take.

    def _take(self, preparing: Worker) -> _Taken | None:
        """The next item; None where there is none and work to go on with."""
        if self._now.ahead:
            return self._now.ahead.popleft()
        return self._take_from_queue(preparing, 0.0 if self._now.waits else None)

    def _take_from_queue(self, preparing: Worker, timeout_seconds: float | None) -> _Taken | None:
        """Take an item; a frame for the model is prepared from here on."""
        self.activity.idle()
        got = self._frames.get(timeout_seconds)
        if got is None:
            return None
        name, item = got
        if self._can.prepare is None or not isinstance(item, Frame) or not item.sampled:
            return _Taken(name, item, None)
        return _Taken(name, item, preparing.submit(self._prepare, self._can.prepare, item))

    def _prepare(self, prepare: Callable[[Frame], None], frame: Frame) -> None:
        begun = time.monotonic_ns()
        prepare(frame)
        self._runs[frame.source].latency["prepare"].add((time.monotonic_ns() - begun) / 1e6)

    # Look ahead.

    def _look_ahead(self, preparing: Worker, taken: _Taken) -> None:
        """Take what waits already, a window's worth of frames for the model, so that they are prepared while
        `taken` is dealt with; frames that are only held count among the MAX_AHEAD.

        Nothing is taken beyond a gap or an end: a frame after it is prepared when what was before is
        forgotten.
        """
        if self._can.prepare is None:
            return
        ahead = self._now.ahead
        last = ahead[-1] if ahead else taken
        wanted = self._config.window.stride * self._max_batch - sum(each.for_model for each in ahead)
        while wanted > 0 and len(ahead) < MAX_AHEAD and isinstance(last.item, Frame):
            following = self._take_from_queue(preparing, 0.0)
            if following is None:
                return
            ahead.append(following)
            last = following
            wanted -= last.for_model

    def _wait_until_prepared(self, preparing: Worker, taken: _Taken) -> None:
        """Return when a frame is prepared, and look ahead once more: at what came meanwhile."""
        if taken.prepared is None:
            return
        if not taken.is_prepared:
            self._finish()
        self.activity.at(_MODEL, taken.name)
        taken.prepared.result()
        self.activity.idle()
        self._look_ahead(preparing, taken)

    # Deal with an item.

    def _handle(self, taken: _Taken) -> None:
        """Give an item to its source's windower; gaps and ends close what is open of the source."""
        run, item = self._runs[taken.name], taken.item
        if not isinstance(item, Frame):
            self._close(run, item)
            return
        run.epoch = item.epoch
        if not item.sampled:
            self._hold(run, item)
            return
        window = run.windower.push(item)
        if window is not None:
            self._now.ready[run.name] = window

    def _close(self, run: SourceRun, item: Gap | End) -> None:
        """Bring what is left of a source into its tracks and forget it: what follows does not continue it."""
        window = run.windower.flush()
        if window is not None:
            self._begin({run.name: window})
        self._finish()
        self._emit(run, self._release_held(run))
        self._emit(run, run.associator.gap() if isinstance(item, Gap) else run.associator.flush())
        if self._can.forget is not None:
            self.activity.at(_MODEL, run.name)
            self._can.forget(run.name)
            self.activity.idle()
        self._results.put(run.name, item)
        if isinstance(item, End):
            self._now.open_runs.discard(run.name)

    def _hold(self, run: SourceRun, frame: Frame) -> None:
        """Keep a frame that the model is not shown until the window after it, if one is pending."""
        run.held.append(frame)
        if len(run.held) > _MAX_HELD:
            del run.held[0]
            run.ledger.count_dropped("stale")
        if run.windower.num_pending == 0:
            self._finish()
            self._emit(run, self._release_held(run))

    # Begin.

    def _begin_ready(self) -> None:
        windows, self._now.ready = self._now.ready, {}
        self._begin(windows)

    def _begin(self, windows: dict[str, Window]) -> None:
        """Begin with windows, one of a source, in one batch; then finish those that were begun before, and
        these too where the predictor does not work next to us."""
        at_ns = time.monotonic_ns()
        self.activity.at(_MODEL, *windows)
        finish = self._predictor.begin(list(windows.values()))
        self.activity.idle()
        held = {name: self._runs[name].held for name in windows}
        for name in windows:
            self._runs[name].held = []
        self._finish()
        self._now.begun = _Begun(windows, held, at_ns, finish)
        if not self._can.overlaps:
            self._finish()

    # Finish.

    def _finish(self) -> None:
        """Wait for the windows that were begun, if any, and bring each into its tracks."""
        begun, self._now.begun = self._now.begun, None
        if begun is None:
            return
        self.activity.at(_MODEL, *begun.windows)
        predictions = begun.finish()
        self.activity.idle()
        check_predictions(predictions, self._predictor.facts, num_windows=len(begun.windows))
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
        self.activity.at("association", run.name)
        results = run.associator.update(window, prediction)
        self.activity.idle()
        run.latency["associate"].add((time.monotonic_ns() - since) / 1e6)
        run.num_windows += 1
        self._emit(run, _in_time(run, held, results))

    # Emit.

    def _release_held(self, run: SourceRun) -> list[FrameResult]:
        """The results of the frames that a run holds."""
        held, run.held = run.held, []
        return _in_time(run, held, [])

    def _emit(self, run: SourceRun, results: list[FrameResult]) -> None:
        for result in results:
            self._results.put(
                run.name,
                result,
                capacity=self._config.queue.results,
                when_full="drop_oldest" if run.source.live else "wait",
                on_drop=run.count_result_dropped,
            )


def _in_time(run: SourceRun, held: list[Frame], results: list[FrameResult]) -> list[FrameResult]:
    """The results and those of held frames, with the instances known now, in the order of their frames."""
    if not held:
        return results
    return sorted([*results, *map(run.associator.hold, held)], key=lambda result: result.frame.index)
