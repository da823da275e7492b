"""The one place where stages, queues and threads are composed.

    decode thread per source → frames (bounded lanes) → inference thread → results (bounded lanes) → caller's
    thread; beside inference a thread that prepares the frames that come next

The caller's thread, in `run()` or in a `for` loop over the stream, writes each result to the sinks and then
yields it. Files wait when a lane is full; live sources drop the oldest, counted by cause. The first
unexpected exception of any thread stops the stream and is raised to the caller; one source's death touches no
other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, Self

from ops.masks import crop_masks
from pipeline.config import StreamConfig
from pipeline.errors import SourceError
from pipeline.line import SourceLine
from pipeline.predict import (
    MAX_AHEAD,
    BatchingPredictor,
    CroppingPredictor,
    Predictor,
    PreparingPredictor,
    YuvPredictor,
    load_predictor,
)
from pipeline.queues import LaneQueue
from pipeline.report import latency_report, peak_rss_mb
from pipeline.sinks import Sink, SinkContext, build_sinks
from pipeline.source import Source
from pipeline.types import End, EndReason, Frame, FrameResult, Gap, Window

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_JOIN_SECONDS = 15.0
_MAX_HELD = 64
"""Full-size frames between two model frames that may wait for their window (`cadence.hold`)."""


class _Taken(NamedTuple):
    """An item that inference has taken from its queue."""

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


class Stream:
    """A camera or file goes in, frames with tracked instance masks come out.

    `for result in Stream(StreamConfig(source="clip.mp4"))` runs it; so does `run()`, for the sinks alone. A
    stream runs once. `stop()` may be called from anywhere: what was read is still processed, files are
    closed, the `end` message goes out. A slow loop body slows a file down; of a live source the oldest
    results are dropped and counted (`publisher` in the ledger).

    Raises from the loop: SourceError (an input could not be read; with several sources, after the others
    ended), OutputError and AddressError (at construction), or whatever a stage raised.
    """

    def __init__(
        self, config: StreamConfig, *, predictor: Predictor | None = None, sinks: Sequence[Sink] = ()
    ) -> None:
        self._config = config
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._started: float | None = None
        self._wall_seconds = 0.0
        self._first_mask_seconds: float | None = None
        self._created = time.monotonic()
        self._predictor = predictor if predictor is not None else load_predictor(config)
        predictor = self._predictor
        self._prepare: Callable[[Frame], None] | None = None
        if isinstance(predictor, PreparingPredictor) and predictor.prepares:
            self._prepare = predictor.prepare
        self._predict_batch = predictor.predict_batch if isinstance(predictor, BatchingPredictor) else None
        self._max_batch = config.model.max_batch if self._predict_batch is not None else 1
        crop = predictor.crop_masks if isinstance(predictor, CroppingPredictor) else crop_masks
        planes = isinstance(predictor, YuvPredictor) and predictor.takes_yuv
        names = list(config.source.inputs)
        self._lines = {
            name: SourceLine(name, url, config, predictor.facts, self._stop, crop=crop, planes=planes)
            for name, url in config.source.inputs.items()
        }
        context = SinkContext(
            config=config,
            model=self._predictor.facts,
            sources=self.sources,
            ledgers={name: line.ledger for name, line in self._lines.items()},
            stop=self._stop,
        )
        self._sinks: list[Sink] = [*build_sinks(context), *sinks]
        self._frames: LaneQueue[Frame | Gap | End] = LaneQueue(names)
        self._results: LaneQueue[FrameResult | Gap | End] = LaneQueue(names)
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._shut_down()

    def __iter__(self) -> Iterator[FrameResult]:
        """Run the stream and yield each result after the sinks have it. Leaving the loop stops the stream."""
        if self._started is not None or self._frames.closed:
            raise RuntimeError("a Stream runs once, and not after its `with` block: make a new one")
        try:
            self._start()
            yield from self._consume()
        except BaseException as error:
            if self._failure is None and not isinstance(error, GeneratorExit):
                self._failure = error
            raise
        finally:
            self.stop()
            self._shut_down()
        self._raise_failure()

    def run(self) -> dict[str, Any]:
        """Run the stream to its end for its sinks alone; return the report."""
        for _ in self:
            continue
        return self.report()

    def stop(self) -> None:
        """Ask the sources to stop; what they have read is still processed. Callable from any thread."""
        self._stop.set()

    def add_sink(self, sink: Sink) -> None:
        """Give results to `sink` too; before the stream runs."""
        if self._started is not None:
            raise RuntimeError("the stream runs already: add sinks before")
        self._sinks.append(sink)

    @property
    def sources(self) -> dict[str, Source]:
        """Source id → source."""
        return {name: line.source for name, line in self._lines.items()}

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """The sinks that the config asked for and those given; none after the end."""
        return tuple(self._sinks)

    def report(self) -> dict[str, Any]:
        """Return the report (docs/report.md): totals, and the same per source under `sources`."""
        sources = {name: line.report(self._wall_seconds) for name, line in self._lines.items()}
        totals: dict[str, Any] = {
            key: sum(each[key] for each in sources.values()) for key in ("read", "published", "windows")
        }
        causes = [each["dropped"] for each in sources.values()]
        totals["dropped"] = {cause: sum(each[cause] for each in causes) for cause in causes[0]}
        return {
            "read": totals["read"],
            "published": totals["published"],
            "dropped": totals["dropped"],
            "windows": totals["windows"],
            "wall_seconds": round(self._wall_seconds, 3),
            "fps": round(totals["published"] / self._wall_seconds, 3) if self._wall_seconds else 0.0,
            "time_to_first_mask_seconds": self._first_mask_seconds,
            "latency_ms": latency_report([line.latency for line in self._lines.values()]),
            "peak_rss_mb": peak_rss_mb(),
            "sources": sources,
        }

    # The caller's thread.

    def _start(self) -> None:
        self._started = time.monotonic()
        for sink in self._sinks:
            sink.start()
        if self._stop.is_set():
            logger.info("stopped before the first frame")
        self._threads = [
            threading.Thread(target=self._decode, args=(line,), name=f"decode-{name}", daemon=True)
            for name, line in self._lines.items()
        ]
        self._threads.append(threading.Thread(target=self._infer, name="inference", daemon=True))
        for thread in self._threads:
            thread.start()

    def _consume(self) -> Iterator[FrameResult]:
        """Write results to the sinks, in order, until every source has ended or a thread has failed."""
        while any(line.end is None for line in self._lines.values()):
            got = self._results.get(_POLL_SECONDS)
            self._announce_states()
            if self._failure is not None:
                return
            if got is None:
                for sink in self._sinks:
                    sink.poll()
                continue
            name, item = got
            line = self._lines[name]
            if isinstance(item, FrameResult):
                if item.revision and item.frame.index in line.skipped:
                    line.skipped.discard(item.frame.index)
                    line.ledger.count_revision_dropped()
                    continue
                begun = time.monotonic_ns()
                for sink in self._sinks:
                    sink.write(item)
                self._count(line, item, begun)
                yield item
            elif isinstance(item, Gap):
                for sink in self._sinks:
                    sink.gap(item)
            else:
                self._end(line, item)

    def _end(self, line: SourceLine, end: End) -> None:
        line.end = end
        line.state = "ended"
        logger.info("%s: ended (%s)%s", line.name, end.reason, f": {end.detail}" if end.detail else "")
        for sink in self._sinks:
            sink.end(end)

    def _count(self, line: SourceLine, result: FrameResult, begun_ns: int) -> None:
        now = time.monotonic_ns()
        line.latency["sinks"].add((now - begun_ns) / 1e6)
        if result.revision == 0:
            line.ledger.count_published()
            line.latency["total"].add((now - result.frame.captured_monotonic_ns) / 1e6)
        if self._first_mask_seconds is None and any(each.mask for each in result.instances):
            self._first_mask_seconds = round(time.monotonic() - self._created, 3)

    def _announce_states(self) -> None:
        for name, line in self._lines.items():
            state = line.source.state
            if state not in ("ended", line.state) and line.end is None:  # the end is told in order, by End
                line.state = state
                logger.info("%s: %s", name, line.state)
                for sink in self._sinks:
                    sink.state(name, line.state)

    def _shut_down(self) -> None:
        """End threads, counting and sinks; idempotent. A fault of one sink keeps no other from closing."""
        self._frames.close()
        self._results.close()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
            if thread.is_alive():
                logger.warning("%s does not answer and is abandoned", thread.name)
        self._threads = []
        sinks, self._sinks = self._sinks, []
        if self._started is not None and not self._wall_seconds:
            self._wall_seconds = time.monotonic() - self._started
            for name, line in self._lines.items():
                line.ledger.count_dropped("stop", line.ledger.open_frames())
                if line.end is None:
                    reason: EndReason = "stopped" if self._failure is None else "error"
                    detail = "" if self._failure is None else type(self._failure).__name__
                    line.end = End(name, line.epoch, reason, detail)
                    for sink in sinks:
                        self._guard(sink.end, line.end)
        for sink in sinks:
            self._guard(sink.close)

    def _guard(self, call: Callable[..., None], *arguments: End) -> None:
        """Call a sink on the way out; its fault is kept if it is the first one, and logged if not."""
        try:
            call(*arguments)
        except Exception as error:
            if self._failure is None:
                self._failure = error
            else:
                logger.error("while closing: %s", error)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        errors = [line.error for line in self._lines.values() if line.error is not None]
        for error in errors[1:]:
            logger.error("%s", error)
        if errors:
            raise errors[0]

    def _fail(self, error: BaseException) -> None:
        """Keep the first exception of any thread and wake the others."""
        if self._failure is None:
            self._failure = error
        self._stop.set()
        self._frames.close()

    # A decode thread per source.

    def _decode(self, line: SourceLine) -> None:
        queue, epoch = self._config.queue, 0
        try:
            for item in line.source:
                epoch = item.epoch
                if not isinstance(item, Frame):
                    self._frames.put(line.name, item)
                    continue
                live = line.source.live
                dropped = self._frames.put(
                    line.name,
                    item,
                    capacity=queue.live_frames if live else queue.frames,
                    when_full="wait" if not live else "drop_oldest" if item.sampled else "refuse",
                )
                if self._frames.closed:
                    return
                if dropped is not None:
                    self._drop_stale(line)
        except SourceError as error:
            line.error = error
            # The caller raises it when the other sources have ended; until then only the log tells.
            logger.log(logging.ERROR if len(self._lines) > 1 else logging.DEBUG, "%s", error)
            reason: EndReason = "lost" if line.ledger.read > 0 else "error"
            self._frames.put(line.name, End(line.name, epoch, reason, str(error)))
        except BaseException as error:
            self._fail(error)
        finally:
            line.source.close()

    def _drop_stale(self, line: SourceLine) -> None:
        if line.ledger.dropped["stale"] == 0:
            logger.warning(
                "%s: the model does not keep up, frames are dropped and counted (stale); "
                "lower cadence.fps or raise window.stride",
                line.name,
            )
        line.ledger.count_dropped("stale")

    # The inference thread, and one that prepares what it will need next.

    def _infer(self) -> None:
        open_lines = set(self._lines)
        ahead: deque[_Taken] = deque()
        ready: dict[str, Window] = {}
        with ThreadPoolExecutor(1, thread_name_prefix="prepare") as preparing:
            try:
                while open_lines:
                    taken = ahead.popleft() if ahead else self._take(preparing, 0.0 if ready else None)
                    if self._frames.closed:
                        return
                    if ready and (taken is None or taken.name in ready or not taken.is_prepared):
                        self._take_windows(ready)
                    if taken is None:
                        continue
                    self._look_ahead(preparing, taken, ahead)
                    if taken.prepared is not None:
                        taken.prepared.result()
                        self._look_ahead(preparing, taken, ahead)  # what came meanwhile
                    window = self._handle(taken.name, taken.item)
                    if window is not None:
                        ready[taken.name] = window
                        if len(ready) == self._max_batch:
                            self._take_windows(ready)
                    if isinstance(taken.item, End):
                        open_lines.discard(taken.name)
            except BaseException as error:
                self._fail(error)
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
        self._lines[frame.source].latency["prepare"].add((time.monotonic_ns() - begun) / 1e6)

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
        line = self._lines[name]
        if isinstance(item, Frame):
            line.epoch = item.epoch
            if item.sampled:
                return line.windower.push(item)
            self._take_held(line, item)
            return None
        window = line.windower.flush()
        if window is not None:
            self._take_windows({name: window})
        self._emit(line, self._release_held(line, []))
        self._emit(line, line.associator.gap() if isinstance(item, Gap) else line.associator.flush())
        self._predictor.forget(name)
        self._results.put(name, item)
        return None

    def _take_held(self, line: SourceLine, frame: Frame) -> None:
        line.held.append(frame)
        if len(line.held) > _MAX_HELD:
            del line.held[0]
            line.ledger.count_dropped("stale")
        if line.windower.num_pending == 0:
            self._emit(line, self._release_held(line, []))

    def _take_windows(self, windows: dict[str, Window]) -> None:
        """Predict the windows, one of a source, in one batch, then bring each into its tracks; empties
        `windows`."""
        begun = time.monotonic_ns()
        if len(windows) > 1:
            assert self._predict_batch is not None
            predictions = self._predict_batch(list(windows.values()))
        else:
            predictions = [self._predictor.predict(window) for window in windows.values()]
        predicted = time.monotonic_ns()
        for (name, window), prediction in zip(windows.items(), predictions, strict=True):
            line = self._lines[name]
            since = time.monotonic_ns()
            results = line.associator.update(window, prediction)
            done = time.monotonic_ns()
            line.num_windows += 1
            line.latency["predict"].add((predicted - begun) / 1e6)
            line.latency["associate"].add((done - since) / 1e6)
            line.latency["queue"].add((begun - window.new[-1].captured_monotonic_ns) / 1e6)
            self._emit(line, self._release_held(line, results))
        windows.clear()

    def _release_held(self, line: SourceLine, results: list[FrameResult]) -> list[FrameResult]:
        """Return `results` with the held frames in their places in time."""
        held = [line.associator.hold(frame) for frame in line.held]
        line.held = []
        return sorted([*results, *held], key=lambda result: result.frame.index) if held else results

    def _emit(self, line: SourceLine, results: list[FrameResult]) -> None:
        for result in results:
            dropped = self._results.put(
                line.name,
                result,
                capacity=self._config.queue.results,
                when_full="drop_oldest" if line.source.live else "wait",
            )
            if not isinstance(dropped, FrameResult) or dropped is result:
                continue
            if dropped.revision == 0:
                line.ledger.count_dropped("publisher")
                if not dropped.final:
                    line.skipped.add(dropped.frame.index)
            else:
                line.skipped.discard(dropped.frame.index)
                line.ledger.count_revision_dropped()
