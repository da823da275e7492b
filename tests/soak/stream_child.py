"""The stream of a soak, in a process of its own: what it holds is all its own.

Arguments: a config file. Every half second it prints a JSON line: memory, descriptors, threads, the ledgers.
SIGINT ends it, as users end it; then the report follows.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from support.leftovers import descriptors, resident_mb
from support.predictors import FixedPredictor

from pipeline import Stream
from pipeline.config_file import load_config
from pipeline.process import leave_process

EVERY_SECONDS = 0.5


def say(kind: str, **values: Any) -> None:
    """Print one line."""
    print(json.dumps({"kind": kind, "at": time.monotonic(), **values}), flush=True)


def main() -> int:
    """Run the stream until it is stopped."""
    stream = Stream(load_config(sys.argv[1]), predictor=FixedPredictor(num_masks=3, num_frames=3))
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_SECONDS):
            gc.collect()
            say(
                "state",
                resident_mb=resident_mb(),
                descriptors=descriptors(),
                threads=threading.active_count(),
                sources={
                    name: {"state": source.state, "read": each["read"], "reconnects": each["reconnects"]}
                    for (name, source), each in zip(
                        stream.sources.items(), stream.report()["sources"].values(), strict=True
                    )
                },
            )

    watching = threading.Thread(target=watch)
    watching.start()
    signal.signal(signal.SIGINT, lambda *_: stream.stop())
    try:
        stream.run()
    finally:
        over.set()
        watching.join()
        say("report", pid=os.getpid(), report=stream.report())
    return 0


if __name__ == "__main__":
    leave_process(main())
