"""How a scripted camera behaves in one connection: each act is a function that returns its settings.

`FaultServer(act, …)` performs them. Every act is deterministic.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from support import scripted_server as scripts
from support.coded import OTHER_SIZE, Clip, Codec, CodedPicture, Drawing, encode
from support.rtp import MAX_PAYLOAD, sequence_number
from support.scripted_server import Script

Pictures = Callable[[int], CodedPicture]
"""Number of a picture in this connection → what is sent for it."""
Clock = Callable[[float], float | None]
"""Seconds since PLAY → seconds of the camera's clock; None sends no time."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """A camera's behaviour from a connection's beginning to its end."""

    announced: Clip
    """What its SDP tells of."""
    pictures: Pictures
    parameter_sets: bool = True
    """Whether the SDP holds SPS and PPS."""
    fps: float = 25.0
    """Pictures that are sent a second, whatever the clock says."""
    clock: Clock = lambda seconds: seconds
    network: Callable[[list[bytes]], list[bytes]] = lambda packets: packets
    """A picture's packets → those that arrive, in their order."""
    max_payload: int = MAX_PAYLOAD
    """Bytes of a packet, at most."""
    last: int | None = None
    """So many pictures are sent, then the connection ends; None goes on for ever."""
    cut_off: bool = False
    """Whether it ends within a picture, without a goodbye."""
    stall: tuple[int, float] | None = None
    """After so many pictures it says nothing for so many seconds."""
    drip: bool = False
    """Whether the pictures come a byte at a time (over TCP)."""
    status: int = 200
    """What DESCRIBE is answered with."""
    login: str = ""
    """user:password that it asks for (Basic)."""
    script: Script | None = None
    """What it does instead of RTSP."""


def steady(codec: Codec = "h264", *, drawing: Drawing = "numbered", fps: float = 25.0) -> Act:
    """A camera without a fault."""
    clip = encode(codec, drawing=drawing)
    return Act(announced=clip, pictures=clip.picture, fps=fps)


# Before the first picture.


def silent() -> Act:
    """Accepts and says nothing."""
    return replace(steady(), script=scripts.silent)


def silent_after_options() -> Act:
    """Answers the first request only."""
    return replace(steady(), script=scripts.silent_after_options)


def drips() -> Act:
    """Answers a byte at a time, so that no single read ever times out."""
    return replace(steady(), script=scripts.drip)


def garbage() -> Act:
    """Answers with noise."""
    return replace(steady(), script=scripts.garbage)


def answers(status: int) -> Act:
    """Answers DESCRIBE with an error, as a camera that boots does."""
    return replace(steady(), status=status)


def locked(login: str) -> Act:
    """Asks for a user and password."""
    return replace(steady(), login=login)


# How a connection ends.


def closes(after: int) -> Act:
    """Says goodbye after so many pictures; performed again and again it is a reconnect storm."""
    return replace(steady(), last=after)


def dies(after: int) -> Act:
    """Breaks off within a picture that is no key picture."""
    return replace(steady(), last=after, cut_off=True)


def stalls(after: int, seconds: float) -> Act:
    """Is silent for a while, the connection open, and goes on."""
    return replace(steady(), stall=(after, seconds))


def drips_pictures(after: int) -> Act:
    """Sends so many pictures as it should, the others a byte at a time."""
    return replace(steady(), stall=(after, 0.0), drip=True)


# What the network does.


def drops(every: int, *, codec: Codec = "h264") -> Act:
    """Loses every so manyth packet."""
    return replace(
        steady(codec),
        network=lambda packets: [each for each in packets if sequence_number(each) % every],
    )


def reorders(*, codec: Codec = "h264") -> Act:
    """Turns the packets of each picture round; for UDP, as TCP keeps their order."""
    return replace(steady(codec), network=lambda packets: packets[::-1])


# The camera's clock.


def clock(time: Clock) -> Act:
    """Has a clock of its own."""
    return replace(steady(), clock=time)


def resets(at: float) -> Clock:
    """Begins again at 0."""
    return lambda seconds: seconds if seconds < at else seconds - at


def jumps(at: float, by: float) -> Clock:
    """Steps once; `by` is negative for a step back."""
    return lambda seconds: 1000.0 + seconds + (by if seconds >= at else 0.0)


def stands(seconds: float) -> float:
    """Gives every picture the same time."""
    return 7.0


def without_times(seconds: float) -> None:
    """Gives no picture a time."""


def runs(speed: float) -> Clock:
    """Is faster or slower than the world's."""
    return lambda seconds: speed * seconds


def steps_back(by: float, *, every: float = 1.0) -> Clock:
    """Is set back again and again."""
    return lambda seconds: 1000.0 + seconds - by * (seconds // every)


# What is in the pictures.


def changes(before: Clip, after: Clip, *, at: int) -> Act:
    """Announces one clip and sends another from picture `at` on."""
    return Act(
        announced=before,
        pictures=lambda number: before.picture(number) if number < at else after.picture(number - at),
    )


def resizes(at: int, *, codec: Codec = "h264") -> Act:
    """Sends pictures of another size from one on."""
    return changes(encode(codec), encode(codec, size=OTHER_SIZE), at=at)


def becomes_h265(at: int) -> Act:
    """Sends H.265 where it announced H.264, as a camera does whose settings are changed."""
    return changes(encode("h264"), encode("h265"), at=at)


def sei_only(after: int = 0) -> Act:
    """Sends so many pictures and then packets that hold no picture."""
    clip = encode()
    message = next(nal for nal in clip.picture(0).nals if nal[0] & 0x1F == 6)
    empty = CodedPicture("h264", (message,))
    return Act(announced=clip, pictures=lambda number: clip.picture(number) if number < after else empty)


def without_parameter_sets(*, codec: Codec = "h264") -> Act:
    """Sends pictures, and nowhere what they are decoded with."""
    clip = encode(codec)
    bare = [CodedPicture(codec, each.slices) for each in clip.pictures]
    return Act(announced=clip, parameter_sets=False, pictures=lambda number: bare[number % len(bare)])


def damages(every: int, *, codec: Codec = "h264") -> Act:
    """Has flipped bytes in the pixels of every so manyth picture."""
    clip = encode(codec)

    def picture(number: int) -> CodedPicture:
        whole = clip.picture(number)
        if (number + 1) % every:
            return whole
        chance = random.Random(number)
        return CodedPicture(
            codec, tuple(_flipped(nal, chance) if nal in whole.slices else nal for nal in whole.nals)
        )

    return Act(announced=clip, pictures=picture)


def _flipped(nal: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(nal)
    for position in chance.sample(range(len(nal) // 4, len(nal)), 12):
        damaged[position] ^= chance.randrange(1, 256)
    return bytes(damaged)
