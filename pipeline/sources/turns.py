"""How many cameras decode and convert pictures at once: as many as there are cores. Ours.

Each camera has threads of its own, and each of their calls into FFmpeg, OpenCV or numpy gives Python's lock
away and waits for it again. Where the pictures of forty cameras come at the same moment, the one thread of
the model would wait for it behind all of them each time. So they take turns; the model does not.
"""

from __future__ import annotations

import threading

from ops.cores import usable_cores

NUM_TURNS = usable_cores()
TURNS = threading.Semaphore(NUM_TURNS)
"""Held while one packet is decoded or one picture is converted and looked at; never while something is waited
for."""
