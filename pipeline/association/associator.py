"""Instances of overlapping windows → tracks with stable ids, and the frames' results (docs/association.md).

The order of work in `Associator.update` is the design's: candidates, matching, fusion, misses, births,
emission. IFC and SeqFormer link overlapping windows by mask overlap alone and keep everything; this keeps a
ring of T frames and a bounded table, lets tracks be missed, lost and ended, and says what an id may do live.

T frames of a window, F of them real, the first k of those shared with earlier windows; N candidates.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from ops.masks import MakeSums
from pipeline.association.candidates import Candidates, content_cells, select_candidates
from pipeline.association.emission import Emission, Emitter
from pipeline.association.mask_sums import HostSums, MaskLayout
from pipeline.association.matching import Affinity, assign, measure
from pipeline.association.motion import Movement
from pipeline.association.tracks import Track, TrackTable
from pipeline.config import AssociationConfig
from pipeline.types import Frame, FrameResult, Window, WindowPrediction

logger = logging.getLogger(__name__)


class Associator:
    """The tracks of one source; `update` for each window in order, `gap` and `flush` between.

    classes: class output → (category id, name); other outputs of the model are ignored.
    stride: how many new frames the next window will bring, for emission `final` and `both`. 1 is always
    right; the true stride makes finals come earlier (a short last window then no longer votes on them).
    birth_scores: class output → the score from which a free candidate of this class starts a track, in place
    of `birth_score`; where that is below `high_score`, it is this class's high score, too.
    unnamed: class outputs of what has no name: their tracks are shown from when they move on.
    make_sums: where the published masks' logits are summed: on the host, or where a predictor's model runs.
    Raises ValueError for arguments out of range, and in `update` for windows that do not continue each other.
    """

    def __init__(
        self,
        config: AssociationConfig,
        *,
        emission: Emission,
        classes: Mapping[int, tuple[int, str]],
        num_frames: int,
        stride: int = 1,
        birth_scores: Mapping[int, float] | None = None,
        unnamed: Collection[int] = (),
        make_sums: MakeSums = HostSums,
    ) -> None:
        if emission not in ("first", "final", "both"):
            raise ValueError(f"emission {emission!r} must be one of first, final, both")
        if not classes:
            raise ValueError("classes is empty: name at least one class output")
        if not 1 <= stride <= num_frames:
            raise ValueError(f"stride must be in 1..{num_frames} (the window's length), got {stride}")
        self._config = config
        self._emission = emission
        self._outputs = sorted(classes)
        own = birth_scores or {}
        if not set(own) <= set(classes):
            raise ValueError(f"birth_scores {own} name outputs that classes do not: {self._outputs}")
        births = [own.get(output, config.birth_score) for output in self._outputs]
        highs = [min(own.get(output, 1.0), config.high_score) for output in self._outputs]
        self._unnamed = np.isin(self._outputs, list(unnamed))
        """(K,) whether a class is that of what has no name."""
        self._births_from, self._high_from = np.array([births, highs], np.float32)
        """(K,) each: the scores that start a track and that are matched first, by class."""
        self._num_frames = num_frames
        self._table = TrackTable(
            max_tracks=config.max_tracks,
            num_frames=num_frames,
            num_classes=len(self._outputs),
            embedding_memory=config.embedding_memory,
            make_sums=make_sums,
        )
        self._emitter = Emitter(
            self._table,
            emission=emission,
            classes=[classes[output] for output in self._outputs],
            stride=stride,
            show_tentative=config.show_tentative,
            unnamed=[column for column, output in enumerate(self._outputs) if output in unnamed],
        )
        self._movement = Movement(max_tracks=config.max_tracks, num_frames=num_frames)
        self._ring: deque[int] = deque(maxlen=num_frames)  # indices of the frames that the ring holds

    @property
    def num_tracks(self) -> int:
        """Tracks held, lost ones included; at most `max_tracks`."""
        return len(self._table.tracks)

    def update(self, window: Window, prediction: WindowPrediction) -> list[FrameResult]:
        """Take a window's prediction in; return results in the order of frames.

        Emission `first`: each new frame (revision 0, final). `final`: the frames that fell due (0, final).
        `both`: each new frame (0, not final) and the frames that fell due (1, final).
        """
        num_shared = self._check(window, prediction)
        candidates = select_candidates(window, prediction, self._config, self._outputs)
        number = self._emitter.num_seen - num_shared
        places = np.arange(number, number + len(window.real)) % self._num_frames

        self._end_forgotten(window.real[-1].seconds)
        reach = self._reach(window.real[-1])
        affinity = measure(
            candidates,
            self._table,
            places[:num_shared],
            config=self._config,
            reach=reach,
            now_seconds=window.real[-1].seconds,
        )
        matched = (
            self._match(candidates, affinity) if candidates.ids is None else self._match_own(candidates.ids)
        )
        missed = [track for track in self._table.tracks if track.live and track not in matched]

        results = self._emitter.advance(window)
        self._table.clear_frames(places[num_shared:])
        self._ring.extend(frame.index for frame in window.new)
        self._movement.advance(prediction.camera or (None,) * window.num_new, self._table.tracks)
        scale = prediction.fit.scale_x
        self._see(matched, candidates, window, places, scale=scale)
        for track in missed:
            self._miss(track)
        self._see(self._births(matched, candidates, num_shared), candidates, window, places, scale=scale)
        return results + self._emitter.emit(window.num_new)

    def hold(self, frame: Frame) -> FrameResult:
        """Return the last known instances as the result of a frame that the model was not shown."""
        return self._emitter.hold(frame)

    def flush(self) -> list[FrameResult]:
        """Return the finals that are still pending (none with emission `first`): the stream ends here."""
        return self._emitter.flush()

    def gap(self) -> list[FrameResult]:
        """Flush and end all tracks: no later frame continues the earlier ones. Ids go on.

        The tracks' `ended` rows stand in the next new frame.
        """
        results = self._emitter.flush()
        for track in list(self._table.tracks):
            self._end(track)
        self._ring.clear()
        self._movement.clear()
        self._table.drop_masks()
        self._emitter.clear()
        return results

    def _check(self, window: Window, prediction: WindowPrediction) -> int:
        """Return how many of the window's real frames are shared with earlier windows."""
        num_frames = prediction.boxes_xyxy.shape[1]
        if len(window.frames) != self._num_frames or num_frames != self._num_frames:
            raise ValueError(
                f"window of {len(window.frames)} frames with a prediction of {num_frames} does not fit "
                f"num_frames = {self._num_frames}"
            )
        num_outputs = prediction.scores.shape[1]
        if self._outputs[-1] >= num_outputs:
            raise ValueError(
                f"classes name output {self._outputs[-1]}, the prediction has {num_outputs} outputs"
            )
        if prediction.camera is not None and len(prediction.camera) != window.num_new:
            raise ValueError(
                f"the prediction tells the camera's motion at {len(prediction.camera)} frames, "
                f"the window has {window.num_new} new ones"
            )
        num_shared = len(window.real) - window.num_new
        shared = [frame.index for frame in window.real[:num_shared]]
        if shared != list(self._ring)[len(self._ring) - num_shared :]:
            raise ValueError(
                f"window shares frames {shared} with earlier ones, but those were {list(self._ring)}: "
                "call gap() where frames do not continue"
            )
        layout = MaskLayout(
            prediction.fit,
            prediction.mask_stride,
            *content_cells(prediction),
            published=prediction.mask_logits is not None,
        )
        if self._emitter.layout is None:
            width = None if prediction.embeddings is None else prediction.embeddings.shape[1]
            self._table.allocate(
                cells=(layout.rows, layout.columns),
                num_halved=-(-layout.rows // 2) * -(-layout.columns // 2),
                embedding_width=width,
                with_masks=layout.published,
            )
            self._emitter.layout = layout
        elif layout != self._emitter.layout:
            raise ValueError(
                f"the masks' layout changed from {self._emitter.layout} to {layout}: call gap() before it"
            )
        return num_shared

    def _reach(self, newest: Frame) -> NDArray[np.float32]:
        """Return per table row how far (source pixels) a centre may be from where it was last shown."""
        reach = np.zeros(self._table.num_rows, np.float32)
        per_second = self._config.max_speed * math.hypot(newest.height, newest.width)
        for track in self._table.tracks:
            reach[track.slot] = per_second * max(newest.seconds - track.last_seconds, 0.0)
        return reach

    def _match(self, candidates: Candidates, affinity: Affinity) -> dict[Track, int]:
        """Return track → candidate, found in three rounds; what is matched takes no part in the next one."""
        strong = (candidates.best >= self._high_from[candidates.labels])[:, None]
        live = [track for track in self._table.tracks if track.live]
        lost = [track for track in self._table.tracks if not track.live]
        matched: dict[Track, int] = {}
        # Strong candidates: live tracks, and lost ones whose votes in shared frames speak for them.
        gate = affinity.near & strong
        slots = [track.slot for track in lost]
        gate[:, slots] &= affinity.shared[:, slots]
        worth = affinity.similarity.copy()
        worth[:, slots] *= np.float32(self._config.weight_lost)
        self._match_round(matched, live + lost, worth, gate)
        # Weak candidates only keep confirmed tracks alive.
        confirmed = [track for track in live if track.state == "confirmed"]
        self._match_round(matched, confirmed, affinity.similarity, affinity.near & ~strong)
        # Strong candidates that no live track wanted may be lost ones that come back elsewhere.
        self._match_round(matched, lost, affinity.similarity, affinity.far & strong)
        return matched

    def _match_own(self, ids: NDArray[np.int64]) -> dict[Track, int]:
        """Return track → candidate by the model's own identities. One that comes back after its track has
        ended finds none: an id of ours is never used again."""
        found = {own: index for index, own in enumerate(ids.tolist())}
        return {track: found[track.own_id] for track in self._table.tracks if track.own_id in found}

    def _match_round(
        self,
        matched: dict[Track, int],
        tracks: list[Track],
        similarity: NDArray[np.float32],
        gate: NDArray[np.bool_],
    ) -> None:
        """Assign free candidates to those of `tracks` that are free, where `gate` (N, R) allows it."""
        tracks = [track for track in tracks if track not in matched]
        if not tracks:
            return
        slots = [track.slot for track in tracks]
        allowed = gate[:, slots]
        allowed[list(matched.values())] = False
        for index, column in assign(similarity[:, slots], allowed, method=self._config.matching):
            matched[tracks[column]] = index

    def _see(
        self,
        matched: Mapping[Track, int],
        candidates: Candidates,
        window: Window,
        places: NDArray[np.intp],
        *,
        scale: float,
    ) -> None:
        """Let tracks take their candidates' masks, class and embedding, and move on in their lives."""
        if not matched:
            return
        tracks, chosen = list(matched), list(matched.values())
        # With emission `first` a frame is published once: later votes on its logits would be in vain.
        begin = len(window.real) - window.num_new if self._emission == "first" else 0
        self._table.vote(tracks, chosen, candidates, places, sum_logits_from=begin)
        newest_seconds = [window.real[candidates.newest[index]].seconds for index in chosen]
        known = [track.last_seconds for track in tracks]
        later = np.array([new - old for new, old in zip(newest_seconds, known, strict=True)], np.float32)
        for track, index, seconds in zip(tracks, chosen, newest_seconds, strict=True):
            track.num_windows += 1
            track.last_seconds = max(track.last_seconds, seconds)
            if track.state != "confirmed" and self._convinces(track, index, candidates):
                logger.debug("track %d: %s -> confirmed", track.id, track.state)
                track.state = "confirmed"
        self._table.move(tracks, candidates.boxes[chosen], later)
        newest_places = candidates.newest[chosen] - len(window.real)
        self._movement.see(tracks, candidates.boxes[chosen], newest_places, scale=scale)
        # A track that was withheld because it had no name begins again when it gets one.
        named = ~self._unnamed[candidates.labels[chosen]]
        withheld = np.array([self._emitter.withheld(track) for track in tracks])
        self._table.learn(
            tracks,
            chosen,
            candidates,
            anew=withheld & named,
            class_memory=self._config.class_memory,
            class_hysteresis=self._config.class_hysteresis,
        )

    def _convinces(self, track: Track, index: int, candidates: Candidates) -> bool:
        """Whether a track is confirmed: it was before, is seen often enough, or is excellent now."""
        if track.state == "lost" or track.num_windows >= self._config.confirm_windows:
            return True
        least, best = self._config.confirm_quality, float(candidates.best[index])
        return best >= least and best * candidates.quality(index) >= least

    def _births(
        self, matched: Mapping[Track, int], candidates: Candidates, num_shared: int
    ) -> dict[Track, int]:
        """Start tracks for good candidates that nobody took, seen in a new frame, over no live mask."""
        born: dict[Track, int] = {}
        taken = list(matched.values())
        for index in np.flatnonzero(candidates.best >= self._births_from[candidates.labels]).tolist():
            if index in taken or not candidates.visible[index, num_shared:].any():
                continue
            covered = (candidates.overlap[index, taken] >= self._config.birth_max_iou).any()
            if (covered and candidates.ids is None) or not self._make_room():
                continue
            track = self._table.add()
            if candidates.ids is not None:
                track.own_id = int(candidates.ids[index])
            born[track] = index
            taken.append(index)
        return born

    def _make_room(self) -> bool:
        """End the track that is lost for longest when the table is full; False when all are live."""
        if not self._table.full:
            return True
        lost = [track for track in self._table.tracks if not track.live]
        if not lost:
            logger.debug("track table full: %d live tracks, none added", len(self._table.tracks))
            return False
        self._end(min(lost, key=lambda track: track.last_seconds))
        return True

    def _miss(self, track: Track) -> None:
        """No candidate of the window continues a live track."""
        if track.state == "tentative":
            self._end(track)
            return
        track.state = "lost"
        self._emitter.announce(track, "lost")
        logger.debug("track %d: confirmed -> lost", track.id)

    def _end_forgotten(self, now_seconds: float) -> None:
        """End tracks that are lost for too long, but for those that a pending final still shows."""
        for track in list(self._table.tracks):
            forgotten = now_seconds - track.last_seconds > self._config.lost_seconds
            if not track.live and forgotten and not self._emitter.awaits(track):
                self._end(track)

    def _end(self, track: Track) -> None:
        self._emitter.announce(track, "ended")
        self._table.remove(track)
        logger.debug("track %d: %s -> ended", track.id, track.state)
