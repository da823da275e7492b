from __future__ import annotations

import threading

import pytest

from pipeline.live.queues import LaneQueue


def test_items_of_a_lane_keep_their_order_and_lanes_take_turns() -> None:
    queue: LaneQueue[int] = LaneQueue(["a", "b"])
    for value in range(4):
        queue.put("a", value, capacity=8)
    queue.put("b", 100, capacity=8)
    got = [queue.get(0) for _ in range(5)]
    assert [item for item in got if item is not None and item[0] == "a"] == [
        ("a", value) for value in range(4)
    ]
    assert got.index(("b", 100)) <= 1, "one busy lane must not starve another"
    assert queue.get(0) is None


def test_a_full_live_lane_gives_back_its_oldest_frame_but_never_a_gap() -> None:
    queue: LaneQueue[str] = LaneQueue(["cam"])
    queue.put("cam", "gap")
    assert queue.put("cam", "frame 0", capacity=2, when_full="drop_oldest") is None
    assert queue.put("cam", "frame 1", capacity=2, when_full="drop_oldest") is None
    assert queue.put("cam", "frame 2", capacity=2, when_full="drop_oldest") == "frame 0"
    assert [queue.get(0) for _ in range(3)] == [("cam", "gap"), ("cam", "frame 1"), ("cam", "frame 2")]


def test_a_full_file_lane_makes_its_writer_wait_and_loses_nothing() -> None:
    queue: LaneQueue[int] = LaneQueue(["file"])
    refused: list[int | None] = []
    writer = threading.Thread(
        target=lambda: refused.extend(queue.put("file", value, capacity=2) for value in range(200))
    )
    writer.start()
    got = [queue.get(10) for _ in range(200)]
    writer.join(10)
    assert got == [("file", value) for value in range(200)]
    assert refused == [None] * 200


def test_closing_wakes_a_waiting_writer_and_takes_nothing_more() -> None:
    queue: LaneQueue[int] = LaneQueue(["file"])
    queue.put("file", 0, capacity=1)
    results: list[int | None] = []
    writer = threading.Thread(target=lambda: results.append(queue.put("file", 1, capacity=1)))
    writer.start()
    assert not queue.closed
    queue.close()
    writer.join(10)
    assert not writer.is_alive()
    assert results == [1], "a closed queue returns the item itself: the writer knows that it was not taken"
    assert queue.closed
    assert queue.get() is None
    queue.close()


def test_a_reader_waits_for_no_longer_than_asked() -> None:
    queue: LaneQueue[int] = LaneQueue(["a"])
    assert queue.get(0.01) is None
    with pytest.raises(KeyError):
        queue.put("unknown", 1)


def test_a_full_lane_may_refuse_an_item_and_keeps_the_others() -> None:
    queue: LaneQueue[str] = LaneQueue(["cam"])
    assert queue.put("cam", "sampled", capacity=1, when_full="refuse") is None
    assert queue.put("cam", "held", capacity=1, when_full="refuse") == "held"
    assert queue.get(0) == ("cam", "sampled")
    assert queue.get(0) is None


def test_who_is_told_of_a_drop_is_told_before_anything_behind_it_can_be_taken() -> None:
    """Else a frame's second revision could be published though its first was dropped."""
    queue: LaneQueue[int] = LaneQueue(["a"])
    queue.put("a", 1, capacity=2)
    queue.put("a", 2, capacity=2)
    told: list[int] = []
    taken: list[tuple[str, int] | None] = []
    reader = threading.Thread(target=lambda: taken.append(queue.get(10)))

    def note(item: int) -> None:
        reader.start()
        reader.join(0.2)
        assert not taken
        told.append(item)

    queue.put("a", 3, capacity=2, when_full="drop_oldest", on_drop=note)
    reader.join(10)
    assert told == [1]
    assert taken == [("a", 2)]
