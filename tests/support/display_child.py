"""A process that shows two sources' results until it is asked to quit; run by tests of the window.

Arguments: source ids. Prints `quit` when the window asks for it, and `closed` at its end.
"""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
from support.results import make_instance, make_result

from pipeline.sinks.display import Display
from pipeline.types import End


def main() -> None:
    """Show results at about 50 a second from a thread that is not the main one, as sinks may be."""
    sources = sys.argv[1:]
    stop = threading.Event()
    mask = np.zeros((300, 400), dtype=np.bool_)
    mask[100:250, 100:300] = True
    image = np.full((300, 400, 3), (200, 40, 90), dtype=np.uint8)
    display = Display(on_quit=stop.set, note="untrained")

    def show() -> None:
        display.start()
        deadline = time.monotonic() + 60
        index = 0
        while not stop.is_set() and time.monotonic() < deadline:
            for source in sources:
                display.write(make_result(index, image=image, instances=[make_instance(mask)], source=source))
            index += 1
            stop.wait(0.02)
            display.poll()
        print("quit" if stop.is_set() else "timeout", flush=True)
        for source in sources:
            display.end(End(source, 0, "stopped"))
        display.close()
        display.close()
        print("closed", flush=True)

    thread = threading.Thread(target=show)
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
