"""A thread that owns a ZeroMQ socket, and how its callers reach it: both ends of the mask stream stand on it.

A ZeroMQ socket belongs to one thread. Callers leave word under `condition` and wake the thread through a pair
of sockets that its poller watches. Ours.
"""

from __future__ import annotations

import socket as sockets
import threading
from collections.abc import Callable


class SocketThread:
    """Runs `work`: it makes the socket, says `opened()` once that is bound or connects, serves and closes it.

    What `work` raises is raised in the callers: by `start` before `opened`, by `raise_failure` after.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.condition = threading.Condition()
        """Guards what the callers and the thread share; notified when the thread fails."""
        self._work = work
        self._opened = False
        self._joined = False
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._wake_in, self.wakes = sockets.socketpair()
        """`wakes` is readable from a `wake` to the next `drain`: for the thread's poller."""
        self._wake_in.setblocking(False)
        self.wakes.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread and wait until its socket is open; raises what kept it from opening."""
        self._thread.start()
        self._ready.wait()
        if not self._opened:
            self.join()
            self.raise_failure()

    def wake(self) -> None:
        """Let the thread look at what it was told; from any thread, also after `join`."""
        try:
            self._wake_in.send(b"\0")
        except BlockingIOError:
            return  # enough bytes wait there already
        except OSError:
            if not self._joined:
                raise

    def join(self) -> None:
        """Wait for the end of the work; may be called again."""
        self._thread.join()
        self._joined = True
        self._wake_in.close()
        self.wakes.close()

    def raise_failure(self) -> None:
        """Raise what ended the thread, if it failed."""
        if self._failure is not None:
            raise self._failure

    # All below runs in the thread.

    def opened(self) -> None:
        """The socket is bound, or connects."""
        self._opened = True
        self._ready.set()

    def drain(self) -> None:
        """Forget the wakes so far."""
        try:
            while self.wakes.recv(4096):
                pass
        except BlockingIOError:
            return

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # raised again by the caller's next call
            with self.condition:
                self._failure = error
                self.condition.notify_all()
        finally:
            self._ready.set()
