"""The progress bar, as a terminal would get it."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import termios

import numpy as np
import pytest
from support.results import make_instance, make_result

from pipeline.sinks.progress import Progress
from pipeline.types import End


def last_line(stream: io.StringIO, source: str) -> str:
    """Return the source's bar as last drawn."""
    return [line for line in re.split(r"[\r\n]", stream.getvalue()) if source in line][-1]


def test_the_bar_follows_the_frames_that_were_read_to_the_end_of_the_file() -> None:
    stream = io.StringIO()
    progress = Progress({"clip": lambda: 90}, force=True, stream=stream)
    progress.start()
    for index in range(0, 90, 3):
        progress.write(make_result(index, source="clip"))
    progress.poll()
    assert "88/90" in last_line(stream, "clip")
    progress.end(End("clip", 0, "end_of_file"))
    assert "90/90" in last_line(stream, "clip")
    progress.close()
    progress.close()


def test_a_total_that_is_known_only_once_the_file_is_open_is_taken_then() -> None:
    stream = io.StringIO()
    known: list[int] = []
    progress = Progress({"clip": lambda: known[0] if known else None}, force=True, stream=stream)
    progress.start()
    progress.poll()
    assert "0 frames" in last_line(stream, "clip")
    known.append(40)
    progress.write(make_result(9, source="clip"))
    progress.poll()
    assert "10/40" in last_line(stream, "clip")
    progress.close()


def test_later_revisions_do_not_move_the_bar_back() -> None:
    stream = io.StringIO()
    progress = Progress({"clip": lambda: 20}, force=True, stream=stream)
    progress.start()
    progress.write(make_result(9, source="clip", final=False))
    progress.write(make_result(5, source="clip", revision=1))
    progress.poll()
    assert "10/20" in last_line(stream, "clip")
    progress.close()


def test_max_frames_is_the_end_where_it_comes_first() -> None:
    for total, max_frames, shown in ((100, 30, "1/30"), (20, 30, "1/20")):
        stream = io.StringIO()
        progress = Progress(
            {"clip": lambda total=total: total}, max_frames=max_frames, force=True, stream=stream
        )
        progress.start()
        progress.write(make_result(0, source="clip"))
        progress.end(End("clip", 0, "stopped"))
        assert shown in last_line(stream, "clip")
        assert "stopped" in last_line(stream, "clip")


def test_the_number_of_instances_is_shown() -> None:
    stream = io.StringIO()
    progress = Progress({"clip": lambda: 2}, force=True, stream=stream)
    progress.start()
    seen, lost = (
        make_instance(np.ones((64, 96), dtype=np.bool_)),
        make_instance(None, track_id=2, state="lost"),
    )
    progress.write(make_result(0, source="clip", instances=[seen, lost]))
    progress.poll()
    assert "1 instances" in last_line(stream, "clip")
    progress.close()


def test_live_sources_have_no_bar() -> None:
    stream = io.StringIO()
    progress = Progress({}, force=True, stream=stream)
    progress.start()
    progress.write(make_result(0, source="camera"))
    progress.state("camera", "reconnecting")
    progress.poll()
    progress.end(End("camera", 0, "stopped"))
    progress.close()
    assert stream.getvalue() == ""


def read_to_the_end(reader: int) -> bytes:
    """All that was written to the other end, which is closed; a terminal tells its end by an error."""
    chunks = []
    with contextlib.suppress(OSError):
        while chunk := os.read(reader, 65536):
            chunks.append(chunk)
    return b"".join(chunks)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_is_drawn_on_terminals_only(terminal: bool) -> None:
    if terminal:
        reader, writer = pty.openpty()
        termios.tcsetwinsize(writer, (24, 80))
    else:
        reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as stream:
        progress = Progress({"clip": lambda: 3}, stream=stream)
        progress.start()
        progress.write(make_result(2, source="clip"))
        progress.end(End("clip", 0, "end_of_file"))
        progress.close()
    written = read_to_the_end(reader)
    os.close(reader)
    assert (b"3/3" in written) == terminal
    assert bool(written) == terminal
