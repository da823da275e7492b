"""Run a stream from the command line: arguments → config → Stream → exit code.

Exit codes: 0 end of the sources, Ctrl-C or SIGTERM after a clean stop; 1 bad arguments, config, checkpoint,
address or output path, or an output (recording, window, mask stream) whose fault stood when the sources had
ended; 2 a source lost or unreadable, whatever the outputs did; 3 an internal fault, or a stage that did not
answer a stop. An output that failed and works again changes no exit code: the last line names it.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # Until there is something to stop Ctrl-C ends the process at once, and says nothing.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pipeline.process import LOG_FORMAT, leave_process, tune_process

tune_process()  # before numpy and torch are loaded

from pipeline.arguments import Parser
from pipeline.config import StreamConfig
from pipeline.config_file import dump_config, load_config
from pipeline.errors import ConfigError, OutputError, StageHung, StreamError

DEFAULT_ADDRESS = "tcp://127.0.0.1:5555"
_PATIENCE_SECONDS = 1.0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its flags are frozen by a test."""
    parser = Parser(prog="run_stream.py", description="Video in, instance masks with stable identities out.")
    parser.add_argument(
        "--source",
        action="append",
        metavar="[NAME=]SRC",
        default=[],
        help="file, folder of images, rtsp:// or http(s):// URL, camera device, street or demo; repeatable",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML config; only what differs from the defaults")
    parser.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        dest="overrides",
        help="override one config key, e.g. window.stride=2; repeatable",
    )
    parser.add_argument(
        "--publish",
        metavar="ADDR|none",
        help=f"ZeroMQ address of the mask stream (default {DEFAULT_ADDRESS})",
    )
    parser.add_argument(
        "--record", metavar="FILE", help="overlay video, .mp4; {source} stands for the source's name"
    )
    parser.add_argument("--display", action="store_true", help="show the overlay in a window")
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop each source after N frames read")
    parser.add_argument("--report", metavar="FILE", help="write the numbers of the run as JSON")
    parser.add_argument("--print-config", action="store_true", help="print the whole config as YAML and exit")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more; twice: every frame")
    return parser


def config_values(args: argparse.Namespace) -> dict[str, Any]:
    """Return the nested config values that the flags stand for."""
    values: dict[str, Any] = {}
    if args.source:
        values["source"] = {"inputs": parse_sources(args.source)}
    if args.publish is not None:
        values["publish"] = {"address": None if args.publish == "none" else args.publish}
    if args.record is not None:
        values["record"] = {"path": args.record}
    if args.display:
        values["display"] = {"enabled": True}
    if args.max_frames is not None:
        values["max_frames"] = args.max_frames
    return values


def parse_sources(texts: Sequence[str]) -> dict[str, str]:
    """Return name → source of `NAME=SRC` or plain `SRC` (then source0, source1, … by position).

    Text before a `=` counts as a name only if it could be one: a URL or path may hold `=` too. Raises
    ConfigError for a name given twice.
    """
    inputs: dict[str, str] = {}
    for position, text in enumerate(texts):
        name, equals, rest = text.partition("=")
        named = bool(equals) and not set(name) & set("/:?\\") and not _is_file(text)
        name, source = (name, rest) if named else (f"source{position}", text)
        if name in inputs:
            raise ConfigError(f"--source {name}=…: the name {name!r} is given twice; names must differ")
        inputs[name] = source
    return inputs


def _is_file(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # too long for a name
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)
    # Until there is something to stop: within torch's code a KeyboardInterrupt becomes other faults.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(args.verbose, 2)]
    logging.basicConfig(level=level, format=LOG_FORMAT, stream=sys.stderr)
    try:
        defaults = load_config(args.config, overrides=args.overrides)
        values = config_values(args)
        if args.publish is None and defaults.publish.address is None:
            values["publish"] = {"address": DEFAULT_ADDRESS}
        config = load_config(args.config, overrides=args.overrides, values=values)
        if args.print_config:
            print(dump_config(config), end="")
            return 0
        return _run(config, report_path=args.report)
    except (StreamError, ConfigError) as error:
        print(f"run_stream: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        logging.getLogger("run_stream").critical("internal fault: %s", error, exc_info=True)
        return 3


def _run(config: StreamConfig, *, report_path: str | None) -> int:
    from tqdm.contrib.logging import logging_redirect_tqdm

    from pipeline.live.stream import Stream
    from pipeline.sinks.progress import Progress

    target = _open_report(report_path, config)
    stream = Stream(config)
    files = {name: source for name, source in stream.sources.items() if not source.live}
    num_frames = {name: partial(getattr, source, "num_frames") for name, source in files.items()}
    stream.add_sink(Progress(num_frames, max_frames=config.max_frames))

    asked_at: list[float] = []

    def stop(number: int, _: FrameType | None) -> None:
        asked_at.append(time.monotonic())
        stream.stop()
        # A second one, not the same one delivered to process and group, ends the process at once.
        if asked_at[-1] - asked_at[0] > _PATIENCE_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def leave(hung: StageHung) -> None:
        try:
            print(f"run_stream: {hung}", file=sys.stderr)
            if target is not None:
                _write_report(target, stream.report())
        except (OutputError, OSError) as error:
            print(f"run_stream: {error}", file=sys.stderr)
        finally:
            leave_process(hung.exit_code, at_once=True)

    stream.on_stuck = leave
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        with _heard(stream.stop), stream, logging_redirect_tqdm():
            stream.run()
    finally:
        if target is not None:
            _write_report(target, stream.report())
    _print_summary(stream.report())
    return 0


@contextmanager
def _heard(stop: Callable[[], None]) -> Iterator[None]:
    """Hear signals in a thread too: a main thread that waits within a library runs no handler."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    over = threading.Event()

    def hear() -> None:
        first: float | None = None
        while ours.recv(1):
            stop()
            now = time.monotonic()
            first = first or now
            # A second one ends the process at once: here too, since the main thread may not hear it.
            if now - first > _PATIENCE_SECONDS and not over.wait(_PATIENCE_SECONDS):
                os._exit(128 + signal.SIGINT)

    thread = threading.Thread(target=hear, name="signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        theirs.close()
        thread.join()
        ours.close()


def leave() -> NoReturn:
    """Run the command line and leave the process."""
    leave_process(main())


def _open_report(path: str | None, config: StreamConfig) -> Path | None:
    """Find out before the run, not after it, that the report cannot be written."""
    from pipeline.sinks.table import check_not_input

    if path is None:
        return None
    check_not_input(path, "--report", config)
    if config.record.path is not None and Path(path).absolute() == Path(config.record.path).absolute():
        raise OutputError(f"--report {path} is the recording itself: choose another name")
    new = not os.path.lexists(path)
    try:
        Path(path).open("ab").close()
        if new:  # nothing is left where the stream never runs
            Path(path).unlink()
    except OSError as error:
        raise _unwritable(path, error) from None
    return Path(path)


def _write_report(path: Path, report: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: str | Path, error: OSError) -> OutputError:
    return OutputError(f"--report {path}: {error.strerror or error}; choose a path that can be written")


def _print_summary(report: dict[str, Any]) -> None:
    dropped = (
        ", ".join(f"{cause} {number}" for cause, number in report["dropped"].items() if number) or "none"
    )
    print(
        f"{report['read']} frames read, {report['published']} published at {report['fps']} fps, "
        f"dropped: {dropped}",
        file=sys.stderr,
    )
    for sink in report["sinks"]:
        if sink["fault"] is not None:
            print(f"{sink['name']}: {sink['not_taken']} results not taken: {sink['fault']}", file=sys.stderr)


if __name__ == "__main__":
    leave()
