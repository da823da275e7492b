"""FFmpeg's errors as ours, each with what it means on the kind of address and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import av

from pipeline.errors import SourceDenied, SourceError, SourceNotFound, SourceUnreachable, SourceUnreadable
from pipeline.sources.addresses import Address


@contextmanager
def mapped_faults(address: Address, *, source: str) -> Iterator[None]:
    """Turn FFmpeg's errors inside the block into SourceError, the URL's password gone from both."""
    try:
        yield
    except av.error.FFmpegError as error:
        # The cause is shown in tracebacks, and its text holds what was opened and FFmpeg's last log line.
        error.args = (error.errno, address.redact(error.strerror or ""))
        raise _fault(error, address, source) from error


def _fault(error: av.error.FFmpegError, address: Address, source: str) -> SourceError:
    row = next(row for row in _FAULTS if isinstance(error, row.errors))
    make, text = {"rtsp": row.rtsp, "http": row.http}.get(address.kind, row.local)
    if address.packaged:
        make, text = _NOT_INSTALLED
    # What FFmpeg says when PyAV's timeout makes it stop.
    reason = "timed out" if isinstance(error, av.error.ExitError) else error.strerror
    return make(f"source {source!r}: {address.shown}: {text} ({reason})", source=source)


class _Row(NamedTuple):
    """What some FFmpeg errors mean on each kind of address."""

    errors: tuple[type[BaseException], ...]
    rtsp: tuple[type[SourceError], str]
    http: tuple[type[SourceError], str]
    local: tuple[type[SourceError], str]


_NO_VIDEO = (SourceUnreadable, "cannot be read as video; is it a video file, and complete?")
_SILENT = (SourceUnreachable, "does not answer; check address, port, network and that the server runs")
_DENIED = (
    SourceDenied,
    "the server wants another user name or password; give them as scheme://user:password@host/path",
)
_NO_PATH = (SourceNotFound, "the server has nothing at this path; check the part behind the host")
_SERVER_FAULT = (SourceUnreachable, "the server answers with an error of its own; its log may say why")
_REFUSES = (SourceUnreadable, "the server refuses the request")
_BREAKS_OFF = (
    SourceUnreachable,
    "does not answer, or breaks off; check address, port, network and server (an "
    "mp4 whose index stands at its end needs a server that answers range requests)",
)
_NO_RTSP = (SourceUnreachable, "answers, but not with video over RTSP; check port and protocol")
_NO_FILE = (SourceNotFound, "no such file, folder or device; check the path")
_FORBIDDEN = (SourceUnreadable, "may not be read by this user; check its permissions")

_NOT_INSTALLED = (
    SourceUnreadable,
    "the clip that ships with mssts-stream is missing or damaged; install the package again",
)

# The first row that fits counts; the last fits every error.
_FAULTS = (
    _Row((av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError), _DENIED, _DENIED, _NO_VIDEO),
    _Row((av.error.HTTPNotFoundError,), _NO_PATH, _NO_PATH, _NO_VIDEO),
    _Row((av.error.HTTPServerError,), _SERVER_FAULT, _SERVER_FAULT, _NO_VIDEO),
    _Row((av.error.HTTPClientError,), _REFUSES, _REFUSES, _NO_VIDEO),
    _Row((av.error.FileNotFoundError,), _NO_PATH, _NO_PATH, _NO_FILE),
    _Row((av.error.PermissionError,), _SILENT, _SILENT, _FORBIDDEN),
    _Row((av.error.InvalidDataError,), _NO_RTSP, _NO_VIDEO, _NO_VIDEO),
    _Row((av.error.OSError,), _SILENT, _BREAKS_OFF, _NO_VIDEO),
    _Row((av.error.FFmpegError,), _SILENT, _SILENT, _NO_VIDEO),
)
