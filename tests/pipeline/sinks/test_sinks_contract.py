"""What every visual sink promises, run over the real sinks."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sink_story import MAKERS, run
from support.xvfb import XServer, running_xvfb

from pipeline.sinks.display import Display
from pipeline.sinks.progress import Progress
from pipeline.sinks.protocol import Sink
from pipeline.sinks.recorder import Recorder

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def x_server() -> Iterator[XServer]:
    """Return a running Xvfb."""
    with running_xvfb() as server:
        yield server


@pytest.mark.parametrize("number", [-1, 0, 1, 3, 6])
@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"display"}))
def test_a_sink_takes_what_a_stream_brings_and_can_be_closed_at_any_time(
    name: str, number: int, tmp_path: Path
) -> None:
    run(name, tmp_path, number)


@pytest.mark.parametrize("number", [-1, 0, 3])
def test_the_window_takes_what_a_stream_brings_and_can_be_closed_at_any_time(
    number: int, tmp_path: Path, x_server: XServer
) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "DISPLAY": x_server.display, "PYTHONPATH": path}
    command = [sys.executable, "-m", "support.sink_story", "display", str(tmp_path), str(number)]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == 0, child.stderr


def test_sinks_have_exactly_the_methods_that_the_protocol_names() -> None:
    wanted = {name for name, member in vars(Sink).items() if inspect.isfunction(member) and name[0] != "_"}
    assert wanted == {"start", "write", "gap", "state", "end", "poll", "close"}
    for kind in (Recorder, Display, Progress):
        for name in wanted:
            expected = list(inspect.signature(getattr(Sink, name)).parameters)
            assert list(inspect.signature(getattr(kind, name)).parameters) == expected, (kind, name)
