"""One source's stages and counters, from its decoder to its tracks; `stream` moves the items between them."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from ops.masks import MakeSums
from pipeline.association.associator import Associator
from pipeline.association.mask_sums import HostSums
from pipeline.config import StreamConfig
from pipeline.errors import SourceError
from pipeline.health import Health, Vitals
from pipeline.inference.predictor import ModelFacts, birth_scores
from pipeline.inference.window import Windower
from pipeline.live.report import latency_report
from pipeline.redact import redact_url
from pipeline.sources.cadence import Cadence
from pipeline.sources.source import Source, open_source
from pipeline.stats import Histogram, Ledger
from pipeline.types import End, Frame, FrameResult, Gap, SourceState

STAGES = ("queue", "prepare", "predict", "associate", "sinks", "total")
"""Stages of the report: capture to the beginning of the window, preparing included; what a frame needs once,
in a thread of its own; the rest of the network, until its results are taken up; tracks and masks; the sinks;
capture to sinks."""


_MANY_STALE = 5
"""So many frames dropped as stale within a few seconds, and the model is behind."""


class SourceRun:
    """A source with the windower and associator of its own; nothing is opened yet.

    One thread writes each attribute: the decode thread `source` and `error`; the inference thread the
    windower, the associator, `held`, `epoch` and `num_windows`; the caller's `end` and `state`; of `latency`
    one thread each stage. Two are shared: `ledger`, which has a lock, and `skipped`. The inference thread
    puts frames into `skipped`, it and the caller's take them out, each by one operation of the set.
    """

    def __init__(
        self,
        name: str,
        url: str,
        config: StreamConfig,
        facts: ModelFacts,
        stop: threading.Event,
        *,
        make_sums: MakeSums = HostSums,
        planes: bool = False,
    ) -> None:
        self.name = name
        self.url = redact_url(url)
        self.ledger = Ledger()
        self.health = Health(name)
        self.source: Source = open_source(
            name,
            url,
            config.source,
            cadence=Cadence(config.cadence.fps),
            ledger=self.ledger,
            stop=stop,
            max_frames=config.max_frames,
            hold=config.cadence.hold,
            planes=planes,
            health=self.health,
        )
        self.windower = Windower(num_frames=facts.num_frames, stride=config.window.stride)
        self.associator = Associator(
            config.association,
            emission=config.emission,
            classes=facts.classes,
            num_frames=facts.num_frames,
            stride=config.window.stride,
            birth_scores=birth_scores(config, facts),
            unnamed=facts.unnamed,
            make_sums=make_sums,
        )
        self.held: list[Frame] = []
        """Frames between model frames that wait for their window."""
        self.latency = {stage: Histogram() for stage in STAGES}
        self.num_windows = 0
        self.epoch = 0
        self.state: SourceState = "waiting"
        """As the sinks know it."""
        self.end: End | None = None
        self.error: SourceError | None = None
        self.last_stale = 0.0
        """When a frame was last dropped as stale, in monotonic seconds; the decode thread writes it."""
        self.stale_at: deque[float] = deque(maxlen=_MANY_STALE)
        """When the last ones were; the decode thread writes it."""
        self.last_result: float | None = None
        """When the sinks had the newest result, in monotonic seconds; the caller's thread writes it."""
        self.skipped: set[int] = set()
        """Frames whose first revision was dropped before the sinks: later revisions go the same way."""

    def count_result_dropped(self, item: FrameResult | Gap | End) -> None:
        """Count a result that had to go for a newer one; the later revisions of its frame go, too."""
        assert isinstance(item, FrameResult), "gaps and ends are never dropped"
        if item.revision:
            self.skipped.discard(item.frame.index)
            self.ledger.count_revision_dropped()
            return
        self.ledger.count_dropped("publisher")
        if not item.final:
            self.skipped.add(item.frame.index)

    def vitals(self) -> Vitals:
        """The source's counters and conditions now; callable from any thread."""
        ledger, last = self.ledger, self.last_result
        return Vitals(
            read=ledger.read,
            published=ledger.published,
            dropped=ledger.dropped,
            packet_errors=ledger.packet_errors,
            reconnects=ledger.reconnects,
            damaged=ledger.damaged,
            last_result_age_ms=None if last is None else round((time.monotonic() - last) * 1000),
            health=self.health.troubles,
        )

    def report(self, wall_seconds: float) -> dict[str, Any]:
        """Return the source's part of the report (docs/report.md)."""
        ledger = self.ledger
        return {
            "url": self.url,
            "read": ledger.read,
            "published": ledger.published,
            "dropped": ledger.dropped,
            "windows": self.num_windows,
            "fps": round(ledger.published / wall_seconds, 3) if wall_seconds else 0.0,
            "latency_ms": latency_report([self.latency]),
            "packet_errors": ledger.packet_errors,
            "reconnects": ledger.reconnects,
            "damaged": ledger.damaged,
            "health": self.health.counts,
            "revisions_dropped": ledger.revisions_dropped,
            "end": self.end.reason if self.end else None,
            "error": str(self.error) if self.error else None,
        }
