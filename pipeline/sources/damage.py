"""Tells pictures that are damaged: those that the decoder calls corrupt, and those that continue them. Ours.

What was lost (packets of a network, bytes of a file) is made up by the decoder from the picture before. It
says so of that picture alone; the ones after it go on from there until the next key picture. FFmpeg tells of
lost slices of H.264; of a picture that is lost whole, and of H.265, it only writes a line into its log.
"""

from __future__ import annotations

import time

import av

from pipeline.health import Health
from pipeline.stats import Ledger

QUIET_SECONDS = 10.0
"""So long without a damaged picture, and the condition is over."""


class Damage:
    """Follows the pictures of one source; counts damaged ones, begins and ends the condition `damaged`."""

    def __init__(self, ledger: Ledger, health: Health) -> None:
        self.holds = False
        """Whether the last picture is damaged."""
        self._ledger = ledger
        self._health = health
        self._last = 0.0

    def look(self, picture: av.VideoFrame, *, after_error: bool = False) -> bool:
        """Take the next picture of the decoder; say whether it is damaged.

        after_error: whether a packet just before it could not be decoded. (The ledger counts those when they
        are read, which may be before earlier pictures are looked at.)
        """
        self.holds = picture.is_corrupt or (not picture.key_frame and (self.holds or after_error))
        now = time.monotonic()
        if self.holds:
            self._last = now
            self._ledger.count_damaged()
            self._health.begin(
                "damaged",
                f"{self._ledger.damaged} pictures came damaged so far; look at the network "
                "(RTSP over UDP: source.rtsp_transport=tcp); source.skip_damaged=true leaves them out",
            )
        elif self._last and now - self._last > QUIET_SECONDS:
            self._last = 0.0
            self._health.end("damaged")
        return self.holds

    def restart(self) -> None:
        """Another connection: it begins with a key picture."""
        self.holds = False
