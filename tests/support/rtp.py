"""Coded pictures → RTP packets: RFC 3550, with H.264 by RFC 6184 and H.265 by RFC 7798.

Units that fit go alone, larger ones in fragments (FU-A, FU). Packets are small, so that even small pictures
come in several.
"""

from __future__ import annotations

import base64
import struct

from support.coded import Clip, Codec, CodedPicture

CLOCK_HZ = 90_000
MAX_PAYLOAD = 200
PAYLOAD_TYPE = 96
NO_TIME = 0xFFFFFFFF
"""The timestamp that FFmpeg takes for none."""
_FU_A = 28
_FU = 49


class RtpStream:
    """Numbers the packets of one stream; `ssrc` and the first numbers are fixed, tests want no chance."""

    def __init__(self, *, ssrc: int = 0x5EED, max_payload: int = MAX_PAYLOAD) -> None:
        self._ssrc = ssrc
        self._max_payload = max_payload
        self._sequence = 1

    def packets(self, picture: CodedPicture, seconds: float | None) -> list[bytes]:
        """All packets of a picture at `seconds` of the camera's clock; None: without a time."""
        payloads = [
            payload for nal in picture.nals for payload in fragments(picture.codec, nal, self._max_payload)
        ]
        timestamp = NO_TIME if seconds is None else round(seconds * CLOCK_HZ) % NO_TIME
        packets = []
        for position, payload in enumerate(payloads):
            marker = 0x80 if position == len(payloads) - 1 else 0
            header = struct.pack(">BBHII", 0x80, marker | PAYLOAD_TYPE, self._sequence, timestamp, self._ssrc)
            self._sequence = (self._sequence + 1) % (1 << 16)
            packets.append(header + payload)
        return packets

    def goodbye(self) -> bytes:
        """RTCP: an empty receiver report and BYE."""
        return struct.pack(">BBHIBBHI", 0x80, 201, 1, self._ssrc, 0x81, 203, 1, self._ssrc)


def sequence_number(packet: bytes) -> int:
    """The packet's number in its stream."""
    return int.from_bytes(packet[2:4], "big")


def fragments(codec: Codec, nal: bytes, limit: int) -> list[bytes]:
    """Payloads of at most `limit` bytes that carry a unit."""
    if len(nal) <= limit:
        return [nal]
    if codec == "h264":
        kind, body = nal[0] & 0x1F, nal[1:]
        indicator = bytes([nal[0] & 0xE0 | _FU_A])
    else:
        kind, body = nal[0] >> 1 & 0x3F, nal[2:]
        indicator = bytes([nal[0] & 0x81 | _FU << 1, nal[1]])
    room = limit - len(indicator) - 1
    parts = [body[start : start + room] for start in range(0, len(body), room)]
    payloads = []
    for position, part in enumerate(parts):
        first, last = position == 0, position == len(parts) - 1
        payloads.append(indicator + bytes([first << 7 | last << 6 | kind]) + part)
    return payloads


def session_description(clip: Clip, *, parameter_sets: bool) -> str:
    """SDP of one video track, `trackID=0`, with or without the clip's parameter sets."""
    sets = [base64.b64encode(each).decode() for each in clip.parameter_sets] if parameter_sets else []
    if clip.codec == "h264":
        name, settings = "H264", ["packetization-mode=1"]
        settings += [f"sprop-parameter-sets={','.join(sets)}"] if sets else []
    else:
        names = ("sprop-vps", "sprop-sps", "sprop-pps")
        name, settings = "H265", [f"{key}={value}" for key, value in zip(names, sets, strict=False)]
    lines = [
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        "s=scripted camera",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        "a=control:*",
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
        f"a=rtpmap:{PAYLOAD_TYPE} {name}/{CLOCK_HZ}",
        *([f"a=fmtp:{PAYLOAD_TYPE} {'; '.join(settings)}"] if settings else []),
        "a=control:trackID=0",
    ]
    return "\r\n".join([*lines, ""])
