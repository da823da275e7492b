"""Features of a source's last frames in memory that is taken once, and windows of them in one copy.

A frame's features are copied into a slot when it has been encoded, and out of it, T slots at once, for every
window that it stands in. So an engine may give out its own buffers, which its next call overwrites, and a
stream that runs takes no more memory. Ours.

Dimensions: T frames of a window.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model.engines.halves import present
from model.network import FrameFeatures

__all__ = ["FeatureRing", "WindowBuffer"]


class FeatureRing:
    """Slots for the features of one source's frames, by frame index.

    A slot belongs to its frame from `store` until a window after the last one that contains the frame; a
    frame that no window has contained yet keeps its slot. One thread may call `store` next to another that
    calls the rest: no slot is written that a window in the making reads.
    """

    def __init__(self, num_slots: int) -> None:
        """num_slots: T, and the frames that may be stored before a window contains them. All are made with
        the first frame; where more are needed, more are made, and kept."""
        self.num_slots = 0
        """Slots that memory was taken for."""
        self._num_first = num_slots
        self._free: list[FrameFeatures] = []
        self._stored: dict[int, FrameFeatures] = {}
        self._kept: set[int] = set()
        self._lock = threading.Lock()

    def __contains__(self, index: int) -> bool:
        return index in self._stored

    def __getitem__(self, index: int) -> FrameFeatures:
        """The slot of a frame, N = 1, no copy: to be read before the next `keep` without the frame."""
        return self._stored[index]

    def keep(self, indices: Iterable[int]) -> None:
        """Keep the slots of these frames, which are the next window's, stored or yet to be: those of the
        window before that are not among them give theirs back."""
        kept = set(indices)
        with self._lock:
            for index in self._kept - kept:
                slot = self._stored.pop(index, None)
                if slot is not None:
                    self._free.append(slot)
            self._kept = kept

    @torch.inference_mode()
    def store(self, index: int, features: FrameFeatures) -> None:
        """Copy a frame's features (N = 1) into a slot, on the device's current stream."""
        with self._lock:
            slot = self._stored.pop(index, None)
            if slot is None:
                slot = self._take(features)
        if not same_layout(slot, features):
            slot = empty_like(features)  # another engine has taken over
        for own, given in zip(present(slot), present(features), strict=True):
            own.copy_(given)
        with self._lock:
            self._stored[index] = slot

    def _take(self, features: FrameFeatures) -> FrameFeatures:
        if not self._free:
            num = 1 if self.num_slots else self._num_first
            self._free = [empty_like(features) for _ in range(num)]
            self.num_slots += num
        return self._free.pop()


class WindowBuffer:
    """Memory for the features of all frames of a window, or of several, which one copy fills.

    It is taken when it is first needed and again when frames come in another layout, as from an engine that
    has taken over; an engine's own input, given at the beginning, stays.
    """

    def __init__(self, own: FrameFeatures | None = None) -> None:
        self._own = own
        self._fixed = own is not None

    @torch.inference_mode()
    def fill(self, frames: Sequence[FrameFeatures]) -> FrameFeatures:
        """The features of the frames (N = 1 each) in a row; they are overwritten by the next call.

        Raises ValueError where the buffer is an engine's and made for another number of frames.
        """
        own = self._own
        if own is not None and self._fixed and len(own) != len(frames):
            raise ValueError(f"{len(frames)} frames for an engine made for {len(own)}")
        if own is None or not (self._fixed or (len(own) == len(frames) and same_layout(own[0], frames[0]))):
            self._own = own = FrameFeatures.stack(frames)
            return own
        return FrameFeatures.stack(frames, out=own)


def same_layout(one: FrameFeatures, other: FrameFeatures) -> bool:
    """Whether two have the same types, shapes and strides; those of axes of size 1 do not count."""
    pairs = list(zip(present(one), present(other), strict=True))
    return all(
        ours.dtype == theirs.dtype and ours.shape == theirs.shape and _strides(ours) == _strides(theirs)
        for ours, theirs in pairs
    )


def empty_like(features: FrameFeatures) -> FrameFeatures:
    """Memory for features of the same types, shapes and strides."""

    def empty(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else torch.empty_like(tensor)

    return replace(
        features,
        tokens=torch.empty_like(features.tokens),
        narrow=empty(features.narrow),
        c2=empty(features.c2),
        proposals=empty(features.proposals),
    )


def _strides(tensor: Tensor) -> list[int]:
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
