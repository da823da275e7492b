"""Tracks → the frames' results: masks in source pixels, revisions, finals, held frames (docs/association.md).

A frame's masks are the mean logits of all windows that saw it so far. It is published on first sight, when
its last window has voted, or both; what may change in between is masks and scores, never a confirmed id.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ops.rle import CropRLE
from pipeline.association.mask_sums import MaskLayout
from pipeline.association.tracks import Track, TrackTable
from pipeline.types import Frame, FrameResult, Instance, TrackState, Window

Emission = Literal["first", "final", "both"]


@dataclass(eq=False)
class _Pending:
    """A frame whose final result is still to come."""

    number: int
    """Counts the frames that windows brought; its ring place is number % T."""
    frame: Frame
    announced: list[Instance] = field(default_factory=list)
    """Rows of tracks that became lost or ended in it."""


class Emitter:
    """Makes the results of one source from its track table; holds the frames whose finals are to come."""

    def __init__(
        self,
        table: TrackTable,
        *,
        emission: Emission,
        classes: Sequence[tuple[int, str]],
        stride: int,
        show_tentative: bool,
        unnamed: Collection[int] = (),
    ) -> None:
        """classes: of the K columns; unnamed: those columns whose tracks are shown once they have moved."""
        self._table = table
        self._emission = emission
        self._classes = classes
        self._stride = stride
        self._show_tentative = show_tentative
        self._unnamed = frozenset(unnamed)
        self._pending: deque[_Pending] = deque()
        self._announced: dict[int, Instance] = {}
        self._span: tuple[int, int] | None = None
        self._newest: tuple[Instance, ...] | None = ()
        self.layout: MaskLayout | None = None
        """Set before the first window after the start and after `clear`."""
        self.num_seen = 0
        """Frames that windows brought so far."""

    def advance(self, window: Window) -> list[FrameResult]:
        """Take a window's new frames; return the finals of frames that it no longer holds.

        Called before their ring places are cleared.
        """
        results = self._finals(self.num_seen + window.num_new - self._table.num_frames)
        for frame in window.new:
            self._pending.append(_Pending(self.num_seen, frame))
            self.num_seen += 1
        self._span = (window.real[0].index, window.real[-1].index)
        self._newest = None
        return results

    def announce(self, track: Track, state: Literal["lost", "ended"]) -> None:
        """Put a row without mask into the first frame to come: subscribers may drop the track."""
        if self._visible(track):
            self._announced[track.id] = self._instance(track, state=state)

    def withheld(self, track: Track) -> bool:
        """Whether a track is none yet for subscribers: it has no name and never moved."""
        return track.class_index in self._unnamed and not (track.moved or track.shown)

    def _visible(self, track: Track) -> bool:
        return (track.state != "tentative" or self._show_tentative) and not self.withheld(track)

    def emit(self, num_new: int) -> list[FrameResult]:
        """Return what is due once a window has voted, in the order of frames, then revisions."""
        fresh = list(self._pending)[-num_new:]
        fresh[0].announced = list(self._announced.values())
        self._announced = {}
        if self._emission == "first":
            self._pending.clear()
            return [self._result(each, revision=0, final=True) for each in fresh]
        # The next window begins `stride` frames later: a frame before its first one has its last vote.
        due = self.num_seen + self._stride - self._table.num_frames
        if self._emission == "final":
            return self._finals(due)
        results = [self._result(each, revision=0, final=False) for each in fresh]
        return sorted(
            [*results, *self._finals(due)], key=lambda result: (result.frame.index, result.revision)
        )

    def flush(self) -> list[FrameResult]:
        """Return all pending finals."""
        return self._finals(self.num_seen)

    def clear(self) -> None:
        """Forget the masks' layout and what `hold` would show; the tracks' last rows stay announced."""
        self._newest = ()
        self.layout = None

    def hold(self, frame: Frame) -> FrameResult:
        """Return the last known instances for a frame that the model was not shown."""
        if self._newest is None:
            self._newest = self._rows(self.num_seen - 1)
        span = self._span or (frame.index, frame.index)
        return FrameResult(frame=frame, instances=self._newest, window=span, held=True)

    def awaits(self, track: Track) -> bool:
        """Whether a frame whose final is pending holds votes for the track."""
        places = [each.number % self._table.num_frames for each in self._pending]
        return bool(self._table.weight[track.slot, places].any())

    def _finals(self, due: int) -> list[FrameResult]:
        """Return the finals of the pending frames with a number below `due`."""
        revision = int(self._emission == "both")
        results = []
        while self._pending and self._pending[0].number < due:
            results.append(self._result(self._pending.popleft(), revision=revision, final=True))
        return results

    def _result(self, pending: _Pending, *, revision: int, final: bool) -> FrameResult:
        assert self._span is not None
        rows = self._rows(pending.number)
        if pending.number == self.num_seen - 1:
            self._newest = rows
        shown = {row.track_id for row in rows}
        silent = tuple(row for row in pending.announced if row.track_id not in shown)
        return FrameResult(
            frame=pending.frame, instances=rows + silent, window=self._span, revision=revision, final=final
        )

    def _rows(self, number: int) -> tuple[Instance, ...]:
        """Return the instances with a mask in a frame of the ring, by id."""
        place = number % self._table.num_frames
        weight = self._table.weight[:, place]
        tracks = [
            track
            for track in sorted(self._table.tracks, key=lambda track: track.id)
            if weight[track.slot] > 0 and self._visible(track)
        ]
        if not tracks or self.layout is None:
            return ()
        if not self.layout.published:
            return self._box_rows(tracks, place)
        # The mean logit is above 0 where the sum is: the mask needs no division.
        masks = self._table.sums.crops(
            [track.slot for track in tracks],
            place,
            fit=self.layout.content,
            stride=self.layout.stride,
        )
        rows = []
        for track, mask in zip(tracks, masks, strict=True):
            if not mask.is_empty:
                rows.append(self._shown(track, mask.box_xyxy, mask))
        return tuple(rows)

    def _box_rows(self, tracks: list[Track], place: int) -> tuple[Instance, ...]:
        """The instances of a model without masks: mean boxes, to the nearest pixel."""
        assert self._table.box_sum is not None
        rows = []
        for track in tracks:
            if self._table.visible[track.slot, place]:
                mean = self._table.box_sum[track.slot, place] / self._table.weight[track.slot, place]
                x1, y1, x2, y2 = np.rint(mean).astype(int).tolist()
                if x2 > x1 and y2 > y1:
                    rows.append(self._shown(track, (x1, y1, x2, y2), None))
        return tuple(rows)

    def _shown(self, track: Track, box: tuple[int, int, int, int], mask: CropRLE | None) -> Instance:
        track.shown = True
        # A track that was lost meanwhile was live in this frame.
        state: TrackState = "confirmed" if track.state == "lost" else track.state
        return self._instance(track, state=state, box=box, mask=mask)

    def _instance(
        self,
        track: Track,
        *,
        state: TrackState,
        box: tuple[int, int, int, int] = (0, 0, 0, 0),
        mask: CropRLE | None = None,
    ) -> Instance:
        class_id, class_name = self._classes[track.class_index]
        return Instance(
            track_id=track.id,
            class_id=class_id,
            class_name=class_name,
            score=float(self._table.class_mean[track.slot, track.class_index]),
            box_xyxy=box,
            state=state,
            mask=mask,
            moved=track.moved,
        )
