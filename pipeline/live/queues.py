"""One bounded queue with a lane per source: the link between the threads of a stream.

A file's lane blocks its writer when full (nothing is lost); a live source's lane drops its oldest droppable
item and says so to the writer, which counts it. Gaps and ends are never dropped and never make a writer wait.
Lanes are served in turn, so that one busy source cannot starve another.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")
WhenFull = Literal["wait", "drop_oldest", "refuse"]


class LaneQueue(Generic[Item]):
    """Bounded lanes of items, filled by several threads and emptied by one."""

    def __init__(self, lanes: list[str]) -> None:
        self._condition = threading.Condition()
        self._lanes: OrderedDict[str, deque[tuple[Item, bool]]] = OrderedDict(
            (lane, deque()) for lane in lanes
        )
        self._droppable = dict.fromkeys(lanes, 0)
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether new items are refused."""
        return self._closed

    def put(
        self,
        lane: str,
        item: Item,
        *,
        capacity: int | None = None,
        when_full: WhenFull = "wait",
        on_drop: Callable[[Item], None] | None = None,
    ) -> Item | None:
        """Append `item`; return the item that had to go for it: `item` itself where it was not taken.

        `capacity` bounds the lane's droppable items; None marks an item that is never dropped and never
        waits. A closed queue takes nothing. `on_drop` is told what goes for a newer item before anything
        behind it can be taken; it must not use the queue.
        """
        with self._condition:
            entries = self._lanes[lane]
            dropped: Item | None = None
            if capacity is not None:
                if when_full == "wait":
                    self._condition.wait_for(lambda: self._closed or self._droppable[lane] < capacity)
                elif self._droppable[lane] >= capacity and when_full == "refuse":
                    return item
                elif self._droppable[lane] >= capacity:
                    position = next(i for i, (_, droppable) in enumerate(entries) if droppable)
                    dropped = entries[position][0]
                    if on_drop is not None:
                        on_drop(dropped)
                    del entries[position]
                    self._droppable[lane] -= 1
            if self._closed:
                return item
            entries.append((item, capacity is not None))
            self._droppable[lane] += capacity is not None
            self._condition.notify_all()
            return dropped

    def get(self, timeout_seconds: float | None = None) -> tuple[str, Item] | None:
        """Return (lane, item), the lanes taking turns; None after the timeout or when closed and empty."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or any(self._lanes.values()), timeout_seconds)
            for lane, entries in self._lanes.items():
                if entries:
                    item, droppable = entries.popleft()
                    self._droppable[lane] -= droppable
                    self._lanes.move_to_end(lane)
                    self._condition.notify_all()
                    return lane, item
            return None

    def close(self) -> None:
        """Refuse new items, forget those that wait and wake everyone; idempotent."""
        with self._condition:
            self._closed = True
            for lane, entries in self._lanes.items():
                entries.clear()
                self._droppable[lane] = 0
            self._condition.notify_all()
