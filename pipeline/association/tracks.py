"""The tracks of one source: a table of fixed size whose memory does not grow with the stream.

A track's masks live only for the frames of a ring of the last T frames: a sum of mask logits (what is
published) and a sum of mask probabilities (what is matched), each over the windows that saw the frame. Its
appearance is a memory of a few embeddings and their mean weighted by score, as in IDOL and CTVIS.

S slots (most tracks held at once), T frames of the ring, P mask cells, Q cells of the halved masks, K
classes, E embeddings remembered, C embedding width. The big arrays are allocated zeroed and whole; the system
backs a slot with memory when it is first used, and the lowest free slot is used first.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ops.masks import MakeSums, MaskSums
from pipeline.association.candidates import Candidates, unit_length
from pipeline.association.mask_sums import HostSums
from pipeline.types import TrackState


@dataclass(slots=True, eq=False)
class Track:
    """What is known of a track besides its arrays."""

    id: int
    """Never reused."""
    slot: int
    """Row of the table's arrays."""
    state: TrackState = "tentative"
    num_windows: int = 0
    """Windows that saw it."""
    class_index: int = -1
    """Column of the class scores; −1 until it was seen."""
    last_seconds: float = float("-inf")
    """Stream time of the newest frame that shows it."""
    moved: bool = False
    """Whether it has ever moved (`motion`)."""
    shown: bool = False
    """Whether it was ever published with a mask."""

    own_id: int | None = None
    """Identity that the model gave it, where it gives any."""

    @property
    def live(self) -> bool:
        """Whether it was seen in the last window."""
        return self.state in ("tentative", "confirmed")


class TrackTable:
    """Tracks and their arrays, by slot."""

    def __init__(
        self,
        *,
        max_tracks: int,
        num_frames: int,
        num_classes: int,
        embedding_memory: int,
        make_sums: MakeSums = HostSums,
    ) -> None:
        self._make_sums = make_sums
        self.tracks: list[Track] = []
        self.max_tracks = max_tracks
        self.num_frames = num_frames
        self.embedding_memory = embedding_memory
        self._next_id = 1
        self._free = list(range(max_tracks))
        self.weight = np.zeros((max_tracks, num_frames), np.float32)
        """(S, T) windows that voted for the frame in this ring place."""
        self.visible = np.zeros((max_tracks, num_frames), np.bool_)
        """(S, T) whether any of those votes had a cell inside the mask."""
        self.class_mean = np.zeros((max_tracks, num_classes), np.float32)
        """(S, K) running mean of the class scores."""
        self.boxes = np.zeros((max_tracks, 4), np.float32)
        """(S, 4) xyxy in the newest frame that shows the track; source pixels."""
        self.velocity = np.zeros((max_tracks, 2), np.float32)
        """(S, 2) x, y of the box's centre, source pixels a second: half of it the newest step's."""
        self.drop_masks()

    def drop_masks(self) -> None:
        """Forget shapes and arrays that depend on the model's output; `allocate` makes them again."""
        self.sums: MaskSums = HostSums(self.max_tracks, self.num_frames, (0, 0))
        """(S, T, P) sum of the mask logits; of a track, 0 where `weight` is."""
        self.prob_sum = np.zeros((self.max_tracks, self.num_frames, 0), np.float32)
        """(S, T, Q) sum of the halved masks' probabilities."""
        self.last_probs = np.zeros((self.max_tracks, 0), np.float32)
        """(S, Q) halved mask probabilities in the newest frame that shows the track."""
        self.box_sum: NDArray[np.float32] | None = None
        """(S, T, 4) sum of the boxes, source pixels, of a model without masks; of a track, 0 where `weight`
        is."""
        self.embedding_mean: NDArray[np.float32] | None = None
        """(S, C) of length 1; None where the model gives no embeddings."""
        self._embeddings = np.zeros((self.max_tracks, 0, 0), np.float32)
        self._embedding_weight = np.zeros((self.max_tracks, self.embedding_memory), np.float32)

    def allocate(
        self,
        *,
        cells: tuple[int, int],
        num_halved: int,
        embedding_width: int | None,
        with_masks: bool = True,
    ) -> None:
        """Make the arrays for masks of P = rows × columns and Q cells; no width: for no embeddings."""
        slots, memory = self.max_tracks, self.embedding_memory
        self.sums = self._make_sums(slots, self.num_frames, cells)
        self.prob_sum = np.zeros((slots, self.num_frames, num_halved), np.float32)
        self.last_probs = np.zeros((slots, num_halved), np.float32)
        if not with_masks:
            self.box_sum = np.zeros((slots, self.num_frames, 4), np.float32)
        if embedding_width is not None:
            self.embedding_mean = np.zeros((slots, embedding_width), np.float32)
            self._embeddings = np.zeros((slots, memory, embedding_width), np.float32)

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        return not self._free

    @property
    def num_rows(self) -> int:
        """Rows of the arrays that hold all tracks: the highest slot in use + 1."""
        return max((track.slot for track in self.tracks), default=-1) + 1

    def add(self) -> Track:
        """Start a track with a new id in the lowest free slot."""
        track = Track(id=self._next_id, slot=heapq.heappop(self._free))
        self._next_id += 1
        self.weight[track.slot] = 0
        self.visible[track.slot] = False
        self.sums.clear(slice(track.slot, track.slot + 1), range(self.num_frames))
        self.prob_sum[track.slot] = 0
        if self.box_sum is not None:
            self.box_sum[track.slot] = 0
        self._embedding_weight[track.slot] = 0
        self.tracks.append(track)
        return track

    def remove(self, track: Track) -> None:
        """End a track and free its slot."""
        self.tracks.remove(track)
        self.weight[track.slot] = 0
        heapq.heappush(self._free, track.slot)

    def clear_frames(self, places: NDArray[np.intp]) -> None:
        """Empty ring places for the frames that now take them."""
        self.weight[:, places] = 0
        self.visible[:, places] = False
        used = slice(self.num_rows)
        self.sums.clear(used, places.tolist())
        self.prob_sum[used, places] = 0
        if self.box_sum is not None:
            self.box_sum[used, places] = 0

    def vote(
        self,
        tracks: list[Track],
        chosen: list[int],
        candidates: Candidates,
        places: NDArray[np.intp],
        *,
        sum_logits_from: int,
    ) -> None:
        """Add the masks of `candidates[chosen]` to `tracks`, pairwise, at the ring `places` of their frames.

        Logits are summed from frame `sum_logits_from` of the window on: older frames are published already.
        """
        slots = np.array([track.slot for track in tracks], dtype=np.intp)
        rows = slots[:, None]
        self.prob_sum[rows, places] += candidates.probs[chosen]
        logits, which = candidates.logits, np.array(chosen, np.intp)
        if self.sums.on_device and candidates.on_device is not None:
            logits, which = candidates.on_device, candidates.rows[which]
        self.sums.add(slots, places[sum_logits_from:], logits, which, sum_logits_from)
        if self.box_sum is not None and candidates.frame_boxes is not None:
            self.box_sum[rows, places] += candidates.frame_boxes[chosen]
        self.last_probs[slots] = candidates.probs[chosen, candidates.newest[chosen]]
        self.weight[rows, places] += 1
        self.visible[rows, places] |= candidates.visible[chosen]

    def move(self, tracks: list[Track], boxes: NDArray[np.float32], seconds: NDArray[np.float32]) -> None:
        """Take where tracks are: boxes (M, 4) in frames that came so many seconds (M,) after those known.

        Called after `num_windows` rose; a track that no window saw before stands still.
        """
        slots = np.array([track.slot for track in tracks], dtype=np.intp)
        new = np.array([track.num_windows == 1 for track in tracks])
        step = (boxes - self.boxes[slots]).reshape(-1, 2, 2).mean(axis=1)
        later = seconds > 0
        speed = step / np.where(later, seconds, 1)[:, None]
        known = self.velocity[slots]
        moved = np.where(later[:, None], (known + speed) * np.float32(0.5), known)
        self.velocity[slots] = np.where(new[:, None], 0, moved)
        self.boxes[slots] = boxes

    def predicted_boxes(self, now_seconds: float) -> NDArray[np.float32]:
        """Where tracks are by now if they went on as they did: (R, 4) of all rows."""
        boxes = self.boxes[: self.num_rows].copy()
        for track in self.tracks:
            ahead = max(now_seconds - track.last_seconds, 0.0)
            boxes[track.slot] += np.tile(self.velocity[track.slot] * np.float32(ahead), 2)
        return boxes

    def learn(
        self,
        tracks: list[Track],
        chosen: list[int],
        candidates: Candidates,
        *,
        class_memory: int,
        class_hysteresis: float,
        anew: NDArray[np.bool_],
    ) -> None:
        """Let `tracks` learn class and appearance from `candidates[chosen]`, after `num_windows` rose.

        mean ← mean + (score − mean) / min(windows, class_memory); the class changes only when another's mean
        leads by more than `class_hysteresis`. Those `anew` (M,) forget the scores before.
        """
        slots = np.array([track.slot for track in tracks], dtype=np.intp)
        counts = np.array([min(track.num_windows, class_memory) for track in tracks], dtype=np.float32)
        counts[anew] = 1
        means = self.class_mean[slots]
        means += (candidates.scores[chosen] - means) / counts[:, None]
        self.class_mean[slots] = means
        leaders = means.argmax(axis=1)
        for track, mean, leader in zip(tracks, means, leaders, strict=True):
            if track.class_index < 0 or mean[leader] - mean[track.class_index] > class_hysteresis:
                track.class_index = int(leader)
        if self.embedding_mean is not None and candidates.embeddings is not None:
            entry = [(track.num_windows - 1) % self.embedding_memory for track in tracks]
            self._embeddings[slots, entry] = candidates.embeddings[chosen]
            self._embedding_weight[slots, entry] = candidates.best[chosen]
            fused = np.einsum("se,sec->sc", self._embedding_weight[slots], self._embeddings[slots])
            self.embedding_mean[slots] = unit_length(fused)
