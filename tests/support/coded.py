"""Small pictures as real H.264 and H.265, cut into NAL units: what the scripted camera sends.

Each picture carries its number modulo `NUM_PICTURES` (`support.video.read_number`). A clip begins with a key
picture and has no B-frames, so it can be sent again and again without a seam. Encoded once a process.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray
from support.video import numbered_picture

from pipeline.sources.demo import demo_frame

Codec = Literal["h264", "h265"]
Drawing = Literal["numbered", "frozen", "black", "lawn"]

NUM_PICTURES = 64
GOP = 8
SIZE = (96, 160)
OTHER_SIZE = (128, 192)

_START_CODE = re.compile(b"\x00\x00\x00?\x01")
_ENCODERS: dict[Codec, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"tune": "zerolatency", "sc_threshold": "0"}),
    "h265": (
        "libx265",
        {"tune": "zerolatency", "x265-params": "log-level=none:pools=none:scenecut=0:open-gop=0:info=0"},
    ),
}
_PARAMETER_SETS: dict[Codec, tuple[int, ...]] = {"h264": (7, 8), "h265": (32, 33, 34)}
_SEI: dict[Codec, tuple[int, ...]] = {"h264": (6,), "h265": (39, 40)}


def _numbered(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """A numbered picture whose upper half is noise of its own, so that it takes several packets."""
    image = numbered_picture(number, height=height, width=width)
    # Weak, or every picture would be a cut to another shot.
    noise = np.random.default_rng(number).integers(96, 160, (height // 8, width // 4, 1), np.uint8)
    image[: height // 2] = np.kron(noise, np.ones((4, 4, 3), np.uint8))
    return image


def _lawn(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """A picture of the demo clip: about the bits and the work of a real camera's."""
    picture = av.VideoFrame.from_ndarray(demo_frame(number).rgb, format="rgb24")
    return picture.reformat(width=width, height=height).to_ndarray(format="rgb24")


_DRAWINGS: dict[Drawing, Callable[[int, int, int], NDArray[np.uint8]]] = {
    "numbered": _numbered,
    "frozen": lambda _, height, width: numbered_picture(0, height=height, width=width),
    "black": lambda _, height, width: np.zeros((height, width, 3), np.uint8),
    "lawn": _lawn,
}


@dataclass(frozen=True)
class CodedPicture:
    """One picture's NAL units without start codes, parameter sets first where it is a key picture."""

    codec: Codec
    nals: tuple[bytes, ...]

    @property
    def slices(self) -> tuple[bytes, ...]:
        """The units that hold pixels."""
        others = _PARAMETER_SETS[self.codec] + _SEI[self.codec]
        return tuple(nal for nal in self.nals if nal_type(self.codec, nal) not in others)


@dataclass(frozen=True)
class Clip:
    """Pictures of one size, in order; the first of every group (`encode`) is a key picture."""

    codec: Codec
    pictures: tuple[CodedPicture, ...]

    def picture(self, number: int) -> CodedPicture:
        """The picture with a number, beginning anew after the last."""
        return self.pictures[number % len(self.pictures)]

    @property
    def parameter_sets(self) -> tuple[bytes, ...]:
        """(SPS, PPS), of H.265 (VPS, SPS, PPS)."""
        nals = self.pictures[0].nals
        return tuple(
            next(nal for nal in nals if nal_type(self.codec, nal) == wanted)
            for wanted in _PARAMETER_SETS[self.codec]
        )


def nal_type(codec: Codec, nal: bytes) -> int:
    """The type in a unit's header: H.264 section 7.3.1, H.265 section 7.3.1.2."""
    return nal[0] & 0x1F if codec == "h264" else nal[0] >> 1 & 0x3F


@cache
def encode(
    codec: Codec = "h264", *, size: tuple[int, int] = SIZE, drawing: Drawing = "numbered", gop: int = GOP
) -> Clip:
    """Encode `NUM_PICTURES` pictures of `size` (height, width), every `gop`th one a key picture."""
    name, options = _ENCODERS[codec]
    encoder: Any = av.CodecContext.create(name, "w")
    encoder.height, encoder.width = size
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.framerate = Fraction(25)
    encoder.gop_size = gop
    encoder.max_b_frames = 0
    encoder.options = options
    packets = []
    for number in range(NUM_PICTURES):
        image = _DRAWINGS[drawing](number, *size)
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        picture.pts = number
        packets += encoder.encode(picture)
    packets += encoder.encode(None)
    assert len(packets) == NUM_PICTURES
    return Clip(codec, tuple(CodedPicture(codec, _units(bytes(packet))) for packet in packets))


def _units(data: bytes) -> tuple[bytes, ...]:
    """Cut a byte stream (H.264 annex B) at its start codes."""
    return tuple(unit for unit in _START_CODE.split(data) if unit)
