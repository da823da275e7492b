"""A process that publishes small results until its input ends; it prints its address first."""

from __future__ import annotations

import itertools
import logging
import sys
import threading

from support.wire import NO_DROPS, make_publisher, small_result


def main() -> None:
    """Publish about two hundred messages a second."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    with make_publisher() as publisher:
        print(publisher.address, flush=True)
        for index in itertools.count():
            if stop.wait(0.005):
                return
            publisher.publish(small_result(index), NO_DROPS)


if __name__ == "__main__":
    main()
