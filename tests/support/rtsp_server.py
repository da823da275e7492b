"""Starts and stops the real RTSP server of the tests (gstreamer_rtsp.py under the system's python3).

Where GStreamer's packages are missing, a test that needs them skips and names them; with FAIL_ON_SKIP=1 it
fails.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGES = (
    "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)
_PROBE = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
wanted = "videotestsrc x264enc h264parse rtph264pay qtdemux".split()
missing = [name for name in wanted if not Gst.ElementFactory.find(name)]
raise SystemExit("missing elements: " + " ".join(missing) if missing else 0)
"""


@cache
def _fault() -> str | None:
    if not Path(SYSTEM_PYTHON).exists():
        return f"no {SYSTEM_PYTHON}"
    probe = subprocess.run(
        [SYSTEM_PYTHON, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=False
    )
    return None if probe.returncode == 0 else probe.stderr.strip().splitlines()[-1]


def require_rtsp_server() -> None:
    """Skip the calling test, or fail it with FAIL_ON_SKIP=1, where the server cannot run."""
    fault = _fault()
    if fault is None:
        return
    text = f"no RTSP server for the tests ({fault}); install the Debian packages {PACKAGES}"
    if os.environ.get("FAIL_ON_SKIP") == "1":
        pytest.fail(text)
    pytest.skip(text)


class RtspServer:
    """A server process; `file` is served at `.file_url`, a running test camera at `.live_url`.

    A context manager. `kill()` ends it at once, as a crash would; `start()` brings it back on its port.
    """

    def __init__(
        self,
        *,
        file: Path | None = None,
        live: bool = False,
        size: tuple[int, int] = (240, 320),
        fps: int = 25,
        user: str = "",
        password: str = "",
        digest: bool = False,
    ) -> None:
        self.port = 0
        self._user, self._password = user, password
        self._arguments = ["--size", f"{size[1]}x{size[0]}", "--fps", str(fps)]
        if file is not None:
            self._arguments += ["--file", str(file)]
        if live:
            self._arguments.append("--live")
        if user:
            self._arguments += ["--user", user, "--password", password, *(["--digest"] if digest else [])]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        require_rtsp_server()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start and wait until it listens; on the port it had before, if any."""
        script = Path(__file__).with_name("gstreamer_rtsp.py")
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, str(script), "--port", str(self.port), *self._arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        if len(words) != 2 or words[0] != "ready":
            self.kill()
            pytest.fail("the RTSP server of the tests did not start; its own words are on stderr")
        self.port = int(words[1])

    def kill(self) -> None:
        """End the process at once; may be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    @property
    def pid(self) -> int:
        """Process id, e.g. to freeze it with SIGSTOP."""
        assert self._process is not None, "not started"
        return self._process.pid

    def url(self, path: str, *, user: str | None = None, password: str | None = None) -> str:
        """Return the URL of a path, with the right login unless another is given."""
        user = self._user if user is None else user
        password = self._password if password is None else password
        login = f"{user}:{password}@" if user else ""
        return f"rtsp://{login}127.0.0.1:{self.port}{path}"

    @property
    def file_url(self) -> str:
        """Where the file is served."""
        return self.url("/file")

    @property
    def live_url(self) -> str:
        """Where the test camera is."""
        return self.url("/live")
