"""The one place where stages, queues and threads are composed.

    decode thread per source → frames (bounded lanes) → inference thread (`inference`) → results (bounded
    lanes) → caller's thread; next to inference a thread that prepares the frames that come next

The caller's thread, in `run()` or in a `for` loop over the stream, writes each result to the sinks and then
yields it. Files wait when a lane is full; live sources drop the oldest, counted by cause. The first
unexpected exception of any thread stops the stream and is raised to the caller; one source's death touches no
other, and a sink's fault touches neither the sources nor the other sinks (`pipeline.sinks.guard`).
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from ops.masks import crop_masks
from pipeline.association.mask_sums import host_sums
from pipeline.config import StreamConfig
from pipeline.errors import SourceError, StageHung
from pipeline.health import Activity, Work
from pipeline.inference.network_predictor import load_predictor
from pipeline.inference.predictor import Predictor, WindowModel, as_predictor, check_stride
from pipeline.live.inference_loop import Inference
from pipeline.live.queues import LaneQueue
from pipeline.live.report import latency_report, peak_rss_mb
from pipeline.live.source_run import SourceRun
from pipeline.live.watchdog import Watchdog
from pipeline.sinks.guard import GuardedSink
from pipeline.sinks.protocol import Sink, SinkContext
from pipeline.sinks.table import build_sinks
from pipeline.sources.source import Source
from pipeline.types import End, EndReason, Frame, FrameResult, Gap

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_KEEPS_UP_SECONDS = 10.0
"""So long without a dropped frame, and the model keeps up again."""
_DRAIN_SECONDS = 2.0
"""After a stop: how long frames that were read are still processed."""
CLOSE_SECONDS = 5.0
"""A stop is over by then."""
_JOIN_SECONDS = 1.5
"""How long the end waits for threads; with the publisher's two seconds a stop takes less than five."""


_open: weakref.WeakSet[Stream] = weakref.WeakSet()
"""Streams that were made and are not closed."""
_FORKED = (
    "this process was forked from one that had a stream, whose threads and models do not live on in it: "
    "start it by multiprocessing.get_context('spawn') instead"
)
_forked = False
"""Whether this process was forked from one that had made a stream."""


def _close_all() -> None:
    """End what a script left open when it ends: its threads would be torn out of the model and FFmpeg."""
    for stream in list(_open):
        stream.close()


def _note_fork() -> None:
    global _forked
    _forked = _forked or _any_made
    _open.clear()


_any_made = False
atexit.register(_close_all)
os.register_at_fork(after_in_child=_note_fork)


class Stream:
    """A camera or file goes in, frames with tracked instance masks come out.

    `for result in Stream(StreamConfig(source="clip.mp4"))` runs it; so does `run()`, for the sinks alone. A
    stream runs once. `stop()` may be called from anywhere: what was read is still processed for two seconds,
    files are closed, the `end` message goes out, all within five seconds. A slow loop body slows a file down;
    of a live source the oldest results are dropped and counted (`publisher` in the ledger).

    Raises at construction: OutputError and AddressError. From the loop: SourceError (an input could not be
    read; with several sources, after the others ended), StageHung (the model did not answer a stop: its
    thread is left behind), what a stage raised, and after all sources ended the fault of a sink that did not
    work to the end (OutputError, or what a sink of your own raised). A sink that failed and works again is
    told by log, health and report alone.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        predictor: Predictor | WindowModel | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        """predictor: a model of your own (docs/architecture.md); None: the network that the config names.

        Raises ConfigError, TypeError for a predictor that is none, and what sinks raise when they are made.
        """
        if _forked:
            raise RuntimeError(_FORKED)
        self._config = config
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._started: float | None = None
        self._wall_seconds = 0.0
        self._first_mask_seconds: float | None = None
        self._created = time.monotonic()
        self._predictor = as_predictor(predictor) if predictor is not None else load_predictor(config)
        facts, can = self._predictor.facts, self._predictor.capabilities
        check_stride(config, facts)
        make_sums = can.mask_sums or host_sums(can.crop_masks or crop_masks)
        names = list(config.source.inputs)
        self._runs = {
            name: SourceRun(name, url, config, facts, self._stop, make_sums=make_sums, planes=can.takes_yuv)
            for name, url in config.source.inputs.items()
        }
        context = SinkContext(
            config=config,
            model=facts,
            sources=self.sources,
            ledgers={name: run.ledger for name, run in self._runs.items()},
            vitals={name: run.vitals for name, run in self._runs.items()},
            stop=self._stop,
        )
        self._activity = Activity()
        self.on_stuck: Callable[[StageHung], None] | None = None
        """Called by another thread where a sink does not answer a stop for four seconds: all else is closed
        by then, and the process may be left (`process.leave_process`)."""
        self._health = {name: run.health for name, run in self._runs.items()}
        self._sinks = [
            GuardedSink(sink, name=name, condition=name, health=self._health, activity=self._activity)
            for name, sink in build_sinks(context).items()
        ]
        self._closed = False
        for sink in sinks:
            self.add_sink(sink)
        self._frames: LaneQueue[Frame | Gap | End] = LaneQueue(names)
        self._results: LaneQueue[FrameResult | Gap | End] = LaneQueue(names)
        self._inference = Inference(
            config, self._predictor, self._runs, frames=self._frames, results=self._results
        )
        self._runner: threading.Thread | None = None
        """The thread that runs it."""
        global _any_made
        _any_made = True
        _open.add(self)
        self._threads: list[threading.Thread] = []
        self._abandoned: list[str] = []
        self._in_hand: tuple[SourceRun, FrameResult, int] | None = None
        """The result that the sinks are given now, and since when (monotonic ns)."""
        self._watchdog: Watchdog | None = None
        self._stop_seen: float | None = None

    def close(self) -> None:
        """Stop, and free what the stream holds, ports and files, also where it never ran.

        May be called twice and by any thread: one that runs the stream is given time to end it.
        """
        self.stop()
        runner = self._runner
        if runner is not None and runner is not threading.current_thread():
            deadline = time.monotonic() + CLOSE_SECONDS
            while runner.is_alive() and not self._closed and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        self._shut_down()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[FrameResult]:
        """Run the stream and yield each result after the sinks have it. Leaving the loop stops the stream."""
        if _forked:
            raise RuntimeError(_FORKED)
        if self._started is not None or self._frames.closed:
            raise RuntimeError("a Stream runs once, and not after its `with` block: make a new one")
        self._runner = threading.current_thread()
        try:
            self._start()
            yield from self._consume()
            if not self._stop.is_set() and self._watchdog is not None:
                # The sources have ended: closing a long recording may take its time.
                self._watchdog.close()
        except BaseException as error:
            if self._failure is None and not isinstance(error, GeneratorExit):
                self._failure = error
            raise
        finally:
            self._stop.set()
            self._shut_down()
        self._raise_failure()

    def run(self) -> dict[str, Any]:
        """Run the stream to its end for its sinks alone; return the report."""
        for _ in self:
            continue
        return self.report()

    def stop(self) -> None:
        """Ask the sources to stop; what they have read is still processed, for two seconds. Callable from any
        thread."""
        self._stop.set()

    def add_sink(self, sink: Sink) -> None:
        """Give results to `sink` too; before the stream runs."""
        if self._started is not None:
            raise RuntimeError("the stream runs already: add sinks before")
        name = type(sink).__name__
        self._sinks.append(GuardedSink(sink, name=name, health=self._health, activity=self._activity))

    @property
    def sources(self) -> dict[str, Source]:
        """Source id → source."""
        return {name: run.source for name, run in self._runs.items()}

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """The sinks that the config asked for and those given; none after the end."""
        return () if self._closed else tuple(each.sink for each in self._sinks)

    @property
    def abandoned(self) -> tuple[str, ...]:
        """Threads that did not answer at the end and were left behind (`process.leave_process`)."""
        return tuple(self._abandoned)

    def report(self) -> dict[str, Any]:
        """Return the report (docs/report.md): totals, and the same per source under `sources`."""
        sources = {name: run.report(self._wall_seconds) for name, run in self._runs.items()}
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
            "latency_ms": latency_report([run.latency for run in self._runs.values()]),
            "peak_rss_mb": peak_rss_mb(),
            "sources": sources,
            "sinks": [sink.report() for sink in self._sinks],
        }

    # The caller's thread.

    def _start(self) -> None:
        self._started = time.monotonic()
        for sink in self._sinks:
            sink.start()
        if self._stop.is_set():
            logger.info("stopped before the first frame")
        self._threads = [
            threading.Thread(target=self._decode, args=(run,), name=f"decode-{name}", daemon=True)
            for name, run in self._runs.items()
        ]
        self._threads.append(threading.Thread(target=self._infer, name="inference", daemon=True))
        for thread in self._threads:
            thread.start()
        self._watchdog = Watchdog(
            {"inference": self._inference.activity, "sinks": self._activity},
            self._health,
            stopped=self._stop,
            on_stuck=self._leave_sink,
        )

    def _consume(self) -> Iterator[FrameResult]:
        """Write results to the sinks, in order, until every source has ended or a thread has failed."""
        while any(run.end is None for run in self._runs.values()):
            got = self._results.get(_POLL_SECONDS)
            self._announce_states()
            if self._failure is not None or self._drained_long_enough():
                return
            if got is None:
                for sink in self._sinks:
                    sink.poll()
                continue
            name, item = got
            run = self._runs[name]
            if isinstance(item, FrameResult):
                if item.revision and item.frame.index in run.skipped:
                    run.skipped.discard(item.frame.index)
                    run.ledger.count_revision_dropped()
                    continue
                self._in_hand = (run, item, time.monotonic_ns())
                for sink in self._sinks:
                    sink.write(item)
                self._count_in_hand()
                yield item
            elif isinstance(item, Gap):
                for sink in self._sinks:
                    sink.gap(item)
            else:
                self._end(run, item)

    def _drained_long_enough(self) -> bool:
        """Whether a stop was asked for so long ago that what is still on its way is dropped."""
        if not self._stop.is_set():
            return False
        now = time.monotonic()
        self._stop_seen = self._stop_seen or now
        return now - self._stop_seen > _DRAIN_SECONDS

    def _end(self, run: SourceRun, end: End) -> None:
        run.end = end
        run.state = "ended"
        logger.info("%s: ended (%s)%s", run.name, end.reason, f": {end.detail}" if end.detail else "")
        for sink in self._sinks:
            sink.end(end)

    def _count_in_hand(self) -> None:
        """Count the result that the sinks have."""
        in_hand, self._in_hand = self._in_hand, None
        if in_hand is None:
            return
        run, result, begun_ns = in_hand
        now = time.monotonic_ns()
        run.latency["sinks"].add((now - begun_ns) / 1e6)
        run.last_result = now / 1e9
        if result.revision == 0:
            run.ledger.count_published()
            run.latency["total"].add((now - result.frame.captured_monotonic_ns) / 1e6)
        if self._first_mask_seconds is None and any(each.visible for each in result.instances):
            self._first_mask_seconds = round(time.monotonic() - self._created, 3)

    def _announce_states(self) -> None:
        for name, run in self._runs.items():
            state = run.source.state
            if state not in ("ended", run.state) and run.end is None:  # the end is told in order, by End
                run.state = state
                logger.info("%s: %s", name, run.state)
                for sink in self._sinks:
                    sink.state(name, run.state)

    def _shut_down(self) -> None:
        """End threads, counting and sinks; idempotent."""
        self._frames.close()
        self._results.close()
        deadline = time.monotonic() + _JOIN_SECONDS  # of all together: forty that hang must not add up
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._abandon(thread)
        self._threads = []
        if self._started is not None and not self._wall_seconds:
            self._wall_seconds = time.monotonic() - self._started
            for name, run in self._runs.items():
                run.ledger.count_dropped("stop", run.ledger.open_frames())
                if run.end is None:
                    reason: EndReason = "stopped" if self._failure is None else "error"
                    detail = "" if self._failure is None else type(self._failure).__name__
                    run.end = End(name, run.epoch, reason, detail)
                    for sink in self._sinks:
                        sink.end(run.end)
        if not self._closed:
            self._closed = True
            for sink in self._sinks:
                sink.close()
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None
        _open.discard(self)

    def _abandon(self, thread: threading.Thread) -> None:
        """Go on without a thread that does not answer; a fault where it is at one thing for far too long."""
        self._abandoned.append(thread.name)
        work = self._inference.activity.work if thread.name == "inference" else None
        # What it was at when the stop was asked for it should have done by now; a slow model may need longer.
        slow = 0.0 if work is None else self._inference.activity.usual_seconds(work.stage)
        if work is None or time.monotonic() - work.since < max(_DRAIN_SECONDS, 4 * slow):
            logger.warning("%s does not answer in time and is left behind", thread.name)
            return
        seconds = time.monotonic() - work.since
        hung = StageHung(
            f"{work.stage} has not answered for {seconds:.0f} s (sources: {', '.join(work.sources)}); "
            "the stream ended without it"
        )
        if self._failure is None:
            self._failure = hung
        logger.error("%s", hung)

    def _leave_sink(self, work: Work) -> None:
        """By the watchdog: the caller's thread is held by a sink. End the others, and tell `on_stuck`."""
        hung = StageHung(f"{work.stage} did not answer a stop; the stream ended without it")
        self._failure = self._failure or hung
        logger.error("%s", hung)
        self._frames.close()
        self._results.close()
        self._closed = True
        self._count_in_hand()  # the other sinks have it, or do without
        others = [sink for sink in self._sinks if f"the sink {sink.name}" != work.stage]
        # Another one may hang as well: on the same dead disk, say.
        closing = threading.Thread(target=self._close_others, args=(others, hung), daemon=True)
        closing.start()
        closing.join(_JOIN_SECONDS)
        self._abandoned.append(work.stage)
        self._wall_seconds = time.monotonic() - (self._started or 0.0)
        if self.on_stuck is not None:
            self.on_stuck(hung)

    def _close_others(self, others: Sequence[GuardedSink], hung: StageHung) -> None:
        for name, run in self._runs.items():
            run.ledger.count_dropped("stop", run.ledger.open_frames())
            if run.end is None:
                run.end = End(name, run.epoch, "error", type(hung).__name__)
                for sink in others:
                    sink.end(run.end)
        for sink in others:
            sink.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        errors: list[Exception] = [run.error for run in self._runs.values() if run.error is not None]
        errors += [sink.fault for sink in self._sinks if sink.fault is not None]
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

    def _decode(self, run: SourceRun) -> None:
        queue, epoch = self._config.queue, 0
        try:
            for item in run.source:
                epoch = item.epoch
                if not isinstance(item, Frame):
                    self._frames.put(run.name, item)
                    continue
                live = run.source.live
                dropped = self._frames.put(
                    run.name,
                    item,
                    capacity=queue.live_frames if live else queue.frames,
                    when_full="wait" if not live else "drop_oldest" if item.sampled else "refuse",
                )
                if self._frames.closed:
                    return
                if dropped is not None:
                    self._drop_stale(run)
                elif run.last_stale and time.monotonic() - run.last_stale > _KEEPS_UP_SECONDS:
                    run.last_stale = 0.0
                    run.health.end("behind")
        except SourceError as error:
            run.error = error
            # The caller raises it when the other sources have ended; until then only the log tells.
            logger.log(logging.ERROR if len(self._runs) > 1 else logging.DEBUG, "%s", error)
            reason: EndReason = "lost" if run.ledger.read > 0 else "error"
            self._frames.put(run.name, End(run.name, epoch, reason, str(error)))
        except BaseException as error:
            self._fail(error)
        finally:
            run.source.close()

    @staticmethod
    def _drop_stale(run: SourceRun) -> None:
        run.ledger.count_dropped("stale")
        now = run.last_stale = time.monotonic()
        run.stale_at.append(now)
        # One now and then is a hiccup of the machine.
        if len(run.stale_at) == run.stale_at.maxlen and now - run.stale_at[0] < _KEEPS_UP_SECONDS:
            run.health.begin(
                "behind",
                "the model does not keep up, frames are dropped and counted "
                f"(stale: {run.ledger.dropped['stale']}); lower cadence.fps or raise window.stride",
            )

    # The inference thread.

    def _infer(self) -> None:
        try:
            self._inference.run()
        except BaseException as error:
            self._fail(error)
