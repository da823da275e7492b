"""Faults of the world around a stream, one tree under one base class.

    StreamError
    ├── SourceError              the input                       exit code 2
    │   ├── SourceNotFound         no such file, folder, host or path on the server
    │   ├── SourceUnreadable       there, but no video (text file, broken container, no images)
    │   ├── SourceUnreachable      refused, timed out or no route within the connect timeout
    │   ├── SourceDenied           wrong or missing user name or password
    │   └── SourceLost             it delivered frames and then went away for good
    ├── OutputError              a record path, window or report exit code 1
    ├── StageHung                a stage did not answer a stop   exit code 3
    ├── AddressError             a ZeroMQ address                exit code 1
    └── MessageError             bytes on the wire that are no message of ours
        └── WireVersionError       a message of another major version

A caller's mistake (argument, config, checkpoint) is a ValueError, TypeError or `ConfigError` instead.
"""

from __future__ import annotations


class StreamError(Exception):
    """Base of every fault that the pipeline reports; the message names the thing and the remedy."""

    exit_code = 3


class SourceError(StreamError):
    """An input that cannot be opened or read; `source` is the source id ("" where not known yet)."""

    exit_code = 2

    def __init__(self, message: str, *, source: str = "") -> None:
        super().__init__(message)
        self.source = source


class SourceNotFound(SourceError):
    """The file, folder, host or path on the server does not exist."""


class SourceUnreadable(SourceError):
    """The input is there, but holds no video that can be decoded."""


class SourceUnreachable(SourceError):
    """Nobody answered (refused, timed out, no route)."""


class SourceDenied(SourceError):
    """The server wants another user name or password."""


class SourceLost(SourceError):
    """The input delivered frames and then went away."""


class OutputError(StreamError):
    """A file, window or report that cannot be written or shown."""

    exit_code = 1


class StageHung(StreamError):
    """A stage of the stream (the model, a sink) did not answer when the stream was to stop."""


class AddressError(StreamError):
    """A ZeroMQ address that cannot be bound or connected."""

    exit_code = 1


class MessageError(StreamError):
    """Bytes on the wire that are no message of this system."""


class WireVersionError(MessageError):
    """A message of another major version of the wire format."""


class ConfigError(ValueError):
    """A config file, `--set` or keyword that cannot be used; the message holds the dotted key."""

    exit_code = 1
