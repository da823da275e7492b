"""A real X server without a screen (Xvfb), its pictures, keys and window closing, for tests of windows.

libX11 is called by ctypes: it comes with Xvfb, and no Python package is needed.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

WIDTH, HEIGHT = 800, 600
KEY_ESCAPE = 0xFF1B


class XServer:
    """A running Xvfb of 800×600."""

    def __init__(self, display: str) -> None:
        self.display = display
        self._x11: Any = ctypes.CDLL(ctypes.util.find_library("X11") or "libX11.so.6")
        self._x11.XOpenDisplay.restype = ctypes.c_void_p
        self._x11.XDefaultRootWindow.restype = ctypes.c_ulong
        self._x11.XInternAtom.restype = ctypes.c_ulong
        self._x11.XGetImage.restype = ctypes.POINTER(_Image)
        # A window may go between being listed and being asked; libX11 would end the process for that.
        self._ignore = _ErrorHandler(lambda connection, event: 0)
        self._x11.XSetErrorHandler(self._ignore)
        self._connection = ctypes.c_void_p(self._x11.XOpenDisplay(display.encode()))
        if not self._connection:
            raise RuntimeError(f"Xvfb on {display} lets nobody in")

    def picture(self) -> NDArray[np.uint8]:
        """Return what the screen shows, (600, 800, 3) uint8 RGB."""
        root = ctypes.c_ulong(self._x11.XDefaultRootWindow(self._connection))
        planes, z_pixmap = ctypes.c_ulong(0xFFFFFFFF), 2
        image = self._x11.XGetImage(self._connection, root, 0, 0, WIDTH, HEIGHT, planes, z_pixmap)
        if not image:
            raise RuntimeError("the screen cannot be read")
        raw = ctypes.string_at(image.contents.data, HEIGHT * image.contents.bytes_per_line)
        self._x11.XFree(ctypes.c_void_p(image.contents.data))
        self._x11.XFree(image)
        return np.frombuffer(raw, dtype=np.uint8).reshape(HEIGHT, -1, 4)[:, :WIDTH, 2::-1]  # from BGRx

    def windows(self) -> dict[str, int]:
        """Return title → id of all mapped windows that have a title."""
        found: dict[str, int] = {}
        for window in self._children(self._x11.XDefaultRootWindow(self._connection)):
            title = ctypes.c_char_p()
            if self._x11.XFetchName(self._connection, ctypes.c_ulong(window), ctypes.byref(title)):
                found[(title.value or b"").decode()] = window
                self._x11.XFree(title)
        return found

    def press(self, window: int, keysym: int) -> None:
        """Give the window the focus and send it a key."""
        code = self._x11.XKeysymToKeycode(self._connection, ctypes.c_ulong(keysym))
        root = self._x11.XDefaultRootWindow(self._connection)
        self._x11.XSetInputFocus(self._connection, ctypes.c_ulong(window), 2, 0)
        for kind, mask in ((2, 1), (3, 2)):
            event = _Event()
            event.key = _KeyEvent(
                type=kind, send_event=1, display=self._connection, window=window, root=root, x=5, y=5,
                same_screen=1, keycode=code,
            )  # fmt: skip
            self._send(window, event, mask)
        self._x11.XSync(self._connection, 0)

    def close_window(self, window: int) -> None:
        """Do what a window manager does when the user clicks on the cross."""
        event = _Event()
        event.message = _ClientMessage(
            type=33, send_event=1, display=self._connection, window=window, format=32,
            message_type=self._x11.XInternAtom(self._connection, b"WM_PROTOCOLS", 0),
        )  # fmt: skip
        event.message.data[0] = self._x11.XInternAtom(self._connection, b"WM_DELETE_WINDOW", 0)
        self._send(window, event, 0)
        self._x11.XSync(self._connection, 0)

    def _send(self, window: int, event: _Event, mask: int) -> None:
        self._x11.XSendEvent(
            self._connection, ctypes.c_ulong(window), 0, ctypes.c_long(mask), ctypes.byref(event)
        )

    def disconnect(self) -> None:
        """Let go of the server."""
        self._x11.XCloseDisplay(self._connection)

    def _children(self, window: int) -> list[int]:
        root, parent, number = ctypes.c_ulong(), ctypes.c_ulong(), ctypes.c_uint()
        children = ctypes.POINTER(ctypes.c_ulong)()
        self._x11.XQueryTree(
            self._connection, ctypes.c_ulong(window), ctypes.byref(root), ctypes.byref(parent),
            ctypes.byref(children), ctypes.byref(number),
        )  # fmt: skip
        found = [int(children[i]) for i in range(number.value)]
        if found:
            self._x11.XFree(children)
        return found


_ErrorHandler = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Image(ctypes.Structure):
    """The first fields of XImage."""

    _fields_ = (
        ("width", ctypes.c_int), ("height", ctypes.c_int), ("xoffset", ctypes.c_int),
        ("format", ctypes.c_int),
        ("data", ctypes.c_void_p), ("byte_order", ctypes.c_int), ("bitmap_unit", ctypes.c_int),
        ("bitmap_bit_order", ctypes.c_int), ("bitmap_pad", ctypes.c_int), ("depth", ctypes.c_int),
        ("bytes_per_line", ctypes.c_int),
    )  # fmt: skip


class _KeyEvent(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("root", ctypes.c_ulong),
        ("subwindow", ctypes.c_ulong), ("time", ctypes.c_ulong), ("x", ctypes.c_int), ("y", ctypes.c_int),
        ("x_root", ctypes.c_int), ("y_root", ctypes.c_int), ("state", ctypes.c_uint),
        ("keycode", ctypes.c_uint), ("same_screen", ctypes.c_int),
    )  # fmt: skip


class _ClientMessage(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int), ("data", ctypes.c_long * 5),
    )  # fmt: skip


class _Event(ctypes.Union):
    _fields_ = (("key", _KeyEvent), ("message", _ClientMessage), ("pad", ctypes.c_long * 24))


@contextmanager
def running_xvfb() -> Iterator[XServer]:
    """Start Xvfb on a free display; skips, naming the Debian package, where it is not installed."""
    with xvfb_process() as (_, display):
        connection = XServer(display)
        try:
            yield connection
        finally:
            connection.disconnect()


@contextmanager
def xvfb_process(display: str | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start Xvfb on this display, or on a free one; yield the process, which may be killed, and the display.

    Skips, naming the Debian package, where it is not installed.
    """
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("needs Xvfb: install the Debian package xvfb")
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as chosen:
        where = [] if display is None else [display]
        server = subprocess.Popen(
            [program, *where, "-displayfd", str(write_end), "-screen", "0", f"{WIDTH}x{HEIGHT}x24"],
            pass_fds=[write_end], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(write_end)
        try:
            # Xvfb writes the number when it is ready, and the pipe ends when it dies.
            number = chosen.readline().decode().strip()
            if not number:
                raise RuntimeError(f"Xvfb ended with status {server.wait()}")
            yield server, f":{number}"
        finally:
            server.terminate()
            server.wait(timeout=10)


def wait_until(condition: Callable[[], bool], what: str, *, timeout_seconds: float = 20.0) -> None:
    """Return when the condition holds; AssertionError, saying `what`, when it does not in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds} s: {what}")
        time.sleep(0.02)
