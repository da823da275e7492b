"""The ring of features: windows equal what was stored, slots are used again, none while a window reads it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from support.small_models import live_model, random_images, small_config

from model.engines.halves import HalvesSpec, present
from model.engines.ring import FeatureRing, WindowBuffer, same_layout
from model.engines.runtime import Runtime
from model.network import FrameFeatures

T = 3


def features(
    value: float, *, channels_last: bool = False, dtype: torch.dtype = torch.float32
) -> FrameFeatures:
    """A frame's features, all of one value."""
    c2 = torch.full((1, 4, 6, 5), value, dtype=dtype)
    if channels_last:
        c2 = c2.contiguous(memory_format=torch.channels_last)
    return FrameFeatures(
        tokens=torch.full((1, 7, 8), value, dtype=dtype),
        narrow=torch.full((1, 7, 2), value, dtype=dtype),
        c2=c2,
        size=(24, 20),
    )


def numbers(window: FrameFeatures) -> list[float]:
    """The frames of a window, by the value of `features`; each tensor tells the same."""
    told = [[float(frame.flatten()[0]) for frame in tensor] for tensor in present(window)]
    assert all(tensor.flatten(1).std(dim=1).max() == 0 for tensor in present(window))
    assert told[0] == told[1] == told[2]
    return told[0]


def windows(num: int) -> Iterator[range]:
    """Numbers of the real frames of windows at stride 1."""
    return (range(max(0, last + 1 - T), last + 1) for last in range(num))


def test_a_stream_of_windows_needs_t_slots_and_one_buffer() -> None:
    ring, buffer, places, addresses = FeatureRing(T), WindowBuffer(), set(), set()
    for window in windows(20):
        ring.keep(window)
        ring.store(window[-1], features(window[-1]))
        places.add(ring[window[-1]].tokens.data_ptr())
        chosen = [window[0]] * (T - len(window)) + list(window)  # missing places repeat the oldest
        filled = buffer.fill([ring[number] for number in chosen])
        addresses.add(filled.tokens.data_ptr())
        assert numbers(filled) == chosen
        assert all(number in ring for number in window)
        assert window[0] - 1 not in ring
    assert ring.num_slots == len(places) == T
    assert len(addresses) == 1


def test_frames_that_no_window_has_contained_keep_their_slots() -> None:
    ring = FeatureRing(T + 3)
    for window in windows(20):
        for ahead in range(window[-1], window[-1] + 3):
            if ahead not in ring:
                ring.store(ahead, features(ahead))
        ring.keep(window)
        assert numbers(FrameFeatures.stack([ring[number] for number in window])) == list(window)
    assert 21 in ring
    assert ring.num_slots == T + 3
    ring.store(40, features(40))
    ring.store(41, features(41))
    assert ring.num_slots == T + 4, "more than was said: more slots, nothing lost"
    assert [numbers(ring[number]) for number in (20, 21, 40, 41)] == [[20], [21], [40], [41]]


def test_one_thread_stores_while_another_reads() -> None:
    ring, stored, room = FeatureRing(T + 4), threading.Semaphore(0), threading.Semaphore(4)

    def prepare() -> None:
        for number in range(300):
            room.acquire()
            ring.store(number, features(number))
            stored.release()

    preparing = threading.Thread(target=prepare)
    preparing.start()
    buffer = WindowBuffer()
    for window in windows(300):
        assert stored.acquire(timeout=30)
        ring.keep(window)
        room.release()
        chosen = [window[0]] * (T - len(window)) + list(window)
        assert numbers(buffer.fill([ring[number] for number in chosen])) == chosen
    preparing.join()
    assert ring.num_slots == T + 4


def test_another_layout_or_type_replaces_the_slots_and_the_buffer_one_by_one() -> None:
    """As when a compiled engine, whose results are contiguous, takes over from eager."""
    ring, buffer = FeatureRing(T), WindowBuffer()
    for window in windows(12):
        last = window[-1]
        ring.keep(window)
        given = features(last, channels_last=last < 4, dtype=torch.float32 if last < 8 else torch.bfloat16)
        ring.store(last, given)
        assert same_layout(ring[last], given)
        frames = [ring[number] for number in window]
        filled = buffer.fill(frames)
        assert numbers(filled) == list(window)
        if last == 3:
            assert filled.c2.is_contiguous(memory_format=torch.channels_last)
        if last in (6, 11):
            assert all(tensor.is_contiguous() for tensor in present(filled))
    assert filled.tokens.dtype == torch.bfloat16
    assert ring.num_slots == T


def test_an_engines_own_input_is_filled_in_place() -> None:
    own = FrameFeatures.stack([features(0, channels_last=True)] * T)
    buffer = WindowBuffer(own)
    filled = buffer.fill([features(number) for number in (5, 5, 6)])
    assert all(ours is theirs for ours, theirs in zip(present(filled), present(own), strict=True))
    assert numbers(own) == [5, 5, 6]
    with pytest.raises(ValueError, match="2 frames for an engine made for 3"):
        buffer.fill([features(0)] * 2)


@pytest.mark.parametrize("changes", [{}, {"variant": "baseline"}, {"mask_source": "level1"}])
def test_windows_of_a_network_are_those_of_features_stacked_anew(changes: dict[str, str]) -> None:
    spec = HalvesSpec(height=64, width=96, num_frames=T, num_kept=4, with_cues=False)
    runtime = Runtime(live_model(small_config(**changes)), spec, engine="eager", max_windows=2)
    images = random_images(8, 1, 3, 64, 96)
    rings = [FeatureRing(T), FeatureRing(T)]
    for window in windows(4):
        for first, ring in zip((0, 4), rings, strict=True):
            ring.keep(window)
            ring.store(window[-1], runtime.encode(images[first + window[-1]], lent=True))
        chosen = [window[0]] * (T - len(window)) + list(window)
        got = runtime.decode([ring[number] for ring in rings for number in chosen], num_windows=2)
        anew = [runtime.encode(images[first + number]) for first in (0, 4) for number in chosen]
        wanted = runtime.decode(FrameFeatures.stack(anew), num_windows=2)
        for name in ("logits", "boxes", "mask_logits", "query_embeddings", "kept"):
            assert torch.equal(getattr(got, name), getattr(wanted, name))
