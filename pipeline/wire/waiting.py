"""The messages that wait for their reader: all in order, or the newest of each source; bounded."""

from __future__ import annotations

from collections import deque

from pipeline.types import MaskMessage
from pipeline.wire import limits


class Waiting:
    """A queue of `masks` messages; its owner's lock guards it."""

    def __init__(self, max_number: int) -> None:
        self.skipped = 0
        """Messages that were passed over for newer ones."""
        self._max_number = max_number
        self._queue: deque[tuple[MaskMessage, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def has_room(self) -> bool:
        """Whether one more may come."""
        return len(self._queue) < self._max_number and self._bytes < limits.WAITING_BYTES

    def append(self, message: MaskMessage, memory: int) -> None:
        """Add the newest message, of about `memory` bytes."""
        self._queue.append((message, memory))
        self._bytes += memory

    def take(self) -> MaskMessage:
        """Remove and return the oldest message."""
        message, memory = self._queue.popleft()
        self._bytes -= memory
        return message

    def keep_newest(self) -> None:
        """Drop all but the newest of each source, in order of arrival of the first, and the oldest of these
        where all together are too large."""
        newest = {message.source: (message, memory) for message, memory in self._queue}
        self.skipped += len(self._queue) - len(newest)
        self._queue = deque(newest.values())
        self._bytes = sum(memory for _, memory in self._queue)
        while self._bytes > limits.WAITING_BYTES and len(self._queue) > 1:
            self.take()
            self.skipped += 1
