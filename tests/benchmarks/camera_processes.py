"""Scripted cameras, and a stream that publishes, each in a process of its own: they cost what is measured
nothing but the machine's time."""

from __future__ import annotations

import multiprocessing
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from pipeline.process import tune_process

tune_process()

from support import acts
from support.acts import Act
from support.coded import encode
from support.fault_server import FaultServer
from support.predictors import FixedPredictor

from pipeline import Stream, StreamConfig

SIZE = (360, 640)
GOP = 32
"""Pictures from one key picture to the next."""
FLOOD_FPS = 120.0
_MAX_PAYLOAD = 1400
_NUM_JOINS = 1000
_WAIT_SECONDS = 60.0
_SPAWN = multiprocessing.get_context("spawn")


def steady(fps: float) -> tuple[Act, ...]:
    """640×360 pictures of the demo clip; each connection begins with a key picture."""
    clip = encode(size=SIZE, drawing="lawn", gop=GOP)
    return (Act(announced=clip, pictures=clip.picture, fps=fps, max_payload=_MAX_PAYLOAD),)


def joined(fps: float) -> tuple[Act, ...]:
    """The same, but a connection begins anywhere: the next key picture is up to an interval away."""
    (act,) = steady(fps)
    chance = random.Random(0)
    places = [chance.randrange(1, GOP + 1) for _ in range(_NUM_JOINS)]
    return tuple(
        replace(act, pictures=lambda number, place=place: act.announced.picture(number + place))
        for place in places
    )


CAMERAS: Mapping[str, Callable[[float], tuple[Act, ...]]] = {
    "steady": steady,
    "joined": joined,
    "flood": lambda _: steady(FLOOD_FPS),
    "SEI only": lambda fps: (replace(acts.sei_only(10), fps=fps),),
    "drips": lambda _: (acts.drips(),),
    "drips pictures": lambda _: (acts.drips_pictures(10),),
    "reconnect storm": lambda _: (acts.closes(3),),
    "becomes H.265": lambda _: (acts.becomes_h265(10),),
}


class Child:
    """A process that does `work(pipe, …)`, says what it is ready with, and ends when told None."""

    def __init__(self, work: Callable[..., None], *arguments: object) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=work, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.ready: Any = self._answer()
        """What it said first."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join(_WAIT_SECONDS)
        self._process.kill()

    def ask(self, question: str) -> Any:
        """Its answer. Raises RuntimeError where there is none."""
        self._pipe.send(question)
        return self._answer()

    def _answer(self) -> Any:
        try:
            if self._pipe.poll(_WAIT_SECONDS):
                return self._pipe.recv()
        except EOFError:
            pass
        raise RuntimeError("the child process does not answer; its own words are above")


class Cameras(Child):
    """A scripted server of one kind of camera; at every path there is one."""

    def __init__(self, name: str, *, fps: float) -> None:
        super().__init__(_serve, name, fps)

    def url(self, path: str) -> str:
        """Where the camera of a name is."""
        return f"{self.ready}/{path}"

    def num_sent(self) -> dict[str, int]:
        """Pictures sent so far, by the name of the camera."""
        sent: dict[str, int] = self.ask("sent")
        return {path.rpartition("/")[2]: number for path, number in sent.items()}

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        return float(self.ask("cpu"))

    def power(self, *, on: bool) -> None:
        """Break off all connections and listen no more, or listen again."""
        self.ask("on" if on else "off")


def _serve(pipe: Connection, name: str, fps: float) -> None:
    cast = CAMERAS[name](fps)
    with FaultServer(*cast) as camera:
        pipe.send(camera.rtsp)
        while (asked := pipe.recv()) is not None:
            answer: object = None
            if asked == "sent":
                answer = dict(camera.num_pictures_of)
            elif asked == "cpu":
                answer = time.process_time()
            elif asked == "off":
                camera.power_off()
            else:
                camera.perform(*cast)
                camera.power_on()
            pipe.send(answer)


class PublishingStream(Child):
    """A stream of a null model over `inputs` that publishes; `ready` is its address."""

    def __init__(self, inputs: Mapping[str, str], *, num_masks: int) -> None:
        super().__init__(_publish, dict(inputs), num_masks)


def _publish(pipe: Connection, inputs: dict[str, str], num_masks: int) -> None:
    stream = null_stream(inputs, address="tcp://127.0.0.1:*", num_masks=num_masks)
    thread = threading.Thread(target=stream.run)
    thread.start()
    pipe.send(next(sink.address for sink in stream.sinks if hasattr(sink, "address")))
    pipe.recv()
    stream.stop()
    thread.join()


def null_stream(
    inputs: Mapping[str, str], *, address: str | None, num_masks: int, live_frames: int = 1
) -> Stream:
    """A stream that shows its model, one that costs nothing, every picture that comes."""
    config = StreamConfig.model_validate(
        {
            "source": {"inputs": dict(inputs), "connect_timeout_seconds": _WAIT_SECONDS},
            "cadence": {"fps": "source"},
            "queue": {"live_frames": live_frames},
            "publish": {"address": address},
        }
    )
    return Stream(config, predictor=FixedPredictor(num_masks=num_masks))
