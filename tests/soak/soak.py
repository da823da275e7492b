"""A stream of four cameras that fail in every way, with readers that come, go, stall and talk nonsense.

    python tests/soak/soak.py [--minutes N] [--seed S] [--json FILE]

The cameras are scripted (support/acts.py); every second or two one of them does something else or loses its
power. The stream records in files that rotate, and publishes. At the end all cameras are well again. Exit
code 1, with every reason, where memory, descriptors or threads grew, a ledger does not add up, a camera did
not come back, a recording does not play, or the end took longer than five seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import av
import yaml
import zmq
from support import acts
from support.acts import Act
from support.fault_server import FaultServer
from support.wire import free_address

from pipeline import Subscriber

NUM_CAMERAS = 4
WARM_UP = 0.3
"""Share of the run after which nothing may grow any more."""
MAX_GROWTH_MB = 15.0
MAX_MORE_DESCRIPTORS = 8
MAX_MORE_THREADS = 4
STOP_SECONDS = 5.0
RECOVER_SECONDS = 25.0

WELL: dict[str, Callable[[], Act]] = {
    "h264": acts.steady,
    "h265": lambda: acts.steady("h265"),
    "fast": lambda: acts.steady(fps=120.0),
    "slow": lambda: acts.steady(fps=1.0),
}
"""Acts that go on for ever."""
ILL: dict[str, Callable[[], Act]] = {
    "silent": acts.silent,
    "silent after OPTIONS": acts.silent_after_options,
    "drips": acts.drips,
    "garbage": acts.garbage,
    "400": lambda: acts.answers(400),
    "404": lambda: acts.answers(404),
    "503": lambda: acts.answers(503),
    "closes": lambda: acts.closes(12),
    "dies": lambda: acts.dies(20),
    "stalls": lambda: acts.stalls(15, 1.5),
    "drips pictures": lambda: acts.drips_pictures(15),
    "drops": lambda: acts.drops(9),
    "reorders": acts.reorders,
    "resets": lambda: acts.clock(acts.resets(1.0)),
    "jumps": lambda: acts.clock(acts.jumps(1.0, 100.0)),
    "jumps back": lambda: acts.clock(acts.jumps(1.0, -100.0)),
    "stands": lambda: acts.clock(acts.stands),
    "runs fast": lambda: acts.clock(acts.runs(10.0)),
    "without times": lambda: acts.clock(acts.without_times),
    "resizes": lambda: acts.resizes(20),
    "becomes H.265": lambda: acts.becomes_h265(20),
    "SEI only": lambda: acts.sei_only(15),
    "no SPS": acts.without_parameter_sets,
    "damages": lambda: acts.damages(7),
}


@dataclass
class Soaked:
    """What came of a run."""

    faults: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


class Readers:
    """Subscribers of every kind, in turn: one stays all the time, the others come and go."""

    def __init__(self, address: str, chance: random.Random) -> None:
        self._address = address
        self._chance = chance
        self._context = zmq.Context()
        self._raw: list[zmq.Socket[bytes]] = []
        self._over = threading.Event()
        self.num_received = 0
        self.num_lost = 0
        self.num_visits = 0
        self._staying = threading.Thread(target=self._stay)
        self._staying.start()

    def _stay(self) -> None:
        with Subscriber(self._address) as subscriber:
            while not self._over.is_set():
                with suppress(TimeoutError):
                    self.num_received += subscriber.latest(timeout_seconds=0.5) is not None
            self.num_lost = sum(subscriber.lost.values())

    def visit(self) -> None:
        """One more comes: it reads a little, never reads, talks nonsense, or asks for too much; an old one
        goes."""
        self.num_visits += 1
        kind = self._chance.choice(("reads", "never reads", "nonsense", "asks for much"))
        if kind == "reads":
            with Subscriber(self._address) as subscriber, suppress(TimeoutError):
                subscriber.latest(timeout_seconds=0.2)
        elif kind == "never reads":
            socket = self._context.socket(zmq.SUB)
            socket.linger = 0
            socket.connect(self._address)
            socket.subscribe(b"")
            self._raw.append(socket)
        elif kind == "nonsense":
            socket = self._context.socket(zmq.PAIR)
            socket.linger = 0
            socket.connect(self._address)
            with suppress(zmq.Again):
                socket.send(self._chance.randbytes(500), zmq.NOBLOCK)
            socket.close()
        else:
            socket = self._context.socket(zmq.SUB)
            socket.linger = 0
            socket.connect(self._address)
            for _ in range(50):
                socket.subscribe(self._chance.randbytes(30))
            self._raw.append(socket)
        while len(self._raw) > 3:
            self._raw.pop(self._chance.randrange(len(self._raw))).close()

    def close(self) -> None:
        """All go."""
        self._over.set()
        self._staying.join()
        for socket in self._raw:
            socket.close()
        self._context.term()


def soak(*, minutes: float, seed: int, folder: Path) -> Soaked:
    """Run it for so long and look at what is left."""
    chance, soaked = random.Random(seed), Soaked()
    address = free_address()
    with ExitStack() as stack:
        cameras = {
            f"cam{number}": stack.enter_context(FaultServer(WELL["h264"]())) for number in range(NUM_CAMERAS)
        }
        config = folder / "soak.yaml"
        config.write_text(yaml.safe_dump(_config(cameras, address, folder)))
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("stream_child.py")), str(config)],
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr.txt").open("w"),
            text=True,
        )
        stack.callback(child.kill)
        lines: list[dict[str, Any]] = []
        listening = threading.Thread(target=_listen, args=(child, lines))
        listening.start()
        readers = Readers(address, chance)
        stack.callback(readers.close)
        deadline = time.monotonic() + 60 * minutes
        counted = dict.fromkeys([*WELL, *ILL, "power cut"], 0)
        while time.monotonic() < deadline and child.poll() is None:
            _happen(cameras, chance, counted)
            readers.visit()
            time.sleep(chance.uniform(0.5, 1.5))
        for camera in cameras.values():
            camera.perform(WELL["h264"]())
            camera.power_off()
            camera.power_on()
        _wait_for_recovery(lines, soaked)
        begun = time.monotonic()
        child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=30)
        took = time.monotonic() - begun
        listening.join(10)
        soaked.figures = {
            "minutes": minutes,
            "seed": seed,
            "acts": sum(counted.values()),
            "stop_seconds": round(took, 2),
            "exit_code": child.returncode,
            "visits": readers.num_visits,
            "received": readers.num_received,
        }
        if took > STOP_SECONDS:
            soaked.faults.append(f"the end took {took:.1f} s")
        if child.returncode != 0:
            soaked.faults.append(f"exit code {child.returncode}")
        if readers.num_received == 0:
            soaked.faults.append("the reader that stayed received nothing")
    _judge_growth(lines, soaked)
    _judge_report(lines, soaked, folder)
    if "Traceback" in (said := (folder / "stderr.txt").read_text()):
        soaked.faults.append("a traceback: " + said[said.index("Traceback") :][:1500])
    return soaked


def _config(cameras: dict[str, FaultServer], address: str, folder: Path) -> dict[str, Any]:
    return {
        "source": {
            "inputs": {name: camera.rtsp for name, camera in cameras.items()},
            "connect_timeout_seconds": 2.0,
            "read_timeout_seconds": 1.0,
            "wait": True,
        },
        "publish": {"address": address, "heartbeat_seconds": 0.5},
        "record": {
            "path": str(folder / "{source}.mp4"),
            "max_seconds": 5.0,
            "keep_files": 3,
            "preset": "ultrafast",
        },
    }


def _listen(child: subprocess.Popen[str], lines: list[dict[str, Any]]) -> None:
    assert child.stdout is not None
    lines.extend(json.loads(line) for line in child.stdout)


def _happen(cameras: dict[str, FaultServer], chance: random.Random, counted: dict[str, int]) -> None:
    """One camera does something else, now, or all lose their power."""
    if chance.random() < 0.08:
        counted["power cut"] += 1
        for camera in cameras.values():
            camera.power_off()
        time.sleep(0.3)
        for camera in cameras.values():
            camera.power_on()
        return
    camera = cameras[chance.choice(list(cameras))]
    name = chance.choice([*WELL, *ILL, *ILL])
    well = WELL[chance.choice(["h264", "h264", "h265"])]()
    counted[name] += 1
    if name in WELL:
        camera.perform(WELL[name]())
    else:
        camera.perform(ILL[name](), ILL[name](), well)
    camera.power_off()
    camera.power_on()


def _wait_for_recovery(lines: list[dict[str, Any]], soaked: Soaked) -> None:
    """All cameras are live, and frames flow."""
    deadline = time.monotonic() + RECOVER_SECONDS
    before = lines[-1]["sources"] if lines else {}
    while time.monotonic() < deadline:
        now = lines[-1]["sources"] if lines else {}
        flowing = [
            name
            for name, each in now.items()
            if each["state"] == "live" and each["read"] > before.get(name, {"read": 0})["read"] + 30
        ]
        if len(flowing) == NUM_CAMERAS:
            return
        time.sleep(0.5)
    soaked.faults.append(f"not all came back within {RECOVER_SECONDS:g} s: {lines[-1:]}")


def _judge_growth(lines: list[dict[str, Any]], soaked: Soaked) -> None:
    states = [line for line in lines if line["kind"] == "state"]
    late = states[int(len(states) * WARM_UP) :]
    if len(late) < 20:
        soaked.faults.append(f"only {len(states)} looks at the stream")
        return
    third = len(late) // 3
    for what, most in (
        ("resident_mb", MAX_GROWTH_MB),
        ("descriptors", MAX_MORE_DESCRIPTORS),
        ("threads", MAX_MORE_THREADS),
    ):
        # Medians: what a camera holds comes and goes.
        first, last = (
            statistics.median(each[what] for each in part) for part in (late[:third], late[-third:])
        )
        soaked.figures[what] = {"first": round(first, 1), "last": round(last, 1)}
        if last - first > most:
            soaked.faults.append(f"{what} grew from {first:.1f} to {last:.1f}")


def _judge_report(lines: list[dict[str, Any]], soaked: Soaked, folder: Path) -> None:
    reports = [line["report"] for line in lines if line["kind"] == "report"]
    if not reports:
        soaked.faults.append("no report at the end")
        return
    (report,) = reports
    soaked.figures["reconnects"] = sum(each["reconnects"] for each in report["sources"].values())
    soaked.figures["published"] = report["published"]
    for name, each in report["sources"].items():
        if each["read"] != each["published"] + sum(each["dropped"].values()):
            soaked.faults.append(f"{name}: the ledger does not add up: {each}")
        if each["end"] != "stopped" or each["error"] is not None:
            soaked.faults.append(f"{name} ended with {each['end']}: {each['error']}")
    for sink in report["sinks"]:
        if sink["fault"] is not None:
            soaked.faults.append(f"{sink['name']}: {sink['fault']}")
    recordings = sorted(folder.glob("*.mp4"))
    if not NUM_CAMERAS <= len(recordings) <= NUM_CAMERAS * 4:
        soaked.faults.append(f"{len(recordings)} recordings are left: {[each.name for each in recordings]}")
    for path in recordings:
        with av.open(str(path)) as container:
            if not sum(1 for _ in container.decode(video=0)):
                soaked.faults.append(f"{path.name} holds no frame")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        soaked = soak(minutes=options.minutes, seed=options.seed, folder=Path(folder))
    print(json.dumps(soaked.figures, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps({**soaked.figures, "faults": soaked.faults}, indent=2) + "\n")
    for fault in soaked.faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    return int(bool(soaked.faults))


if __name__ == "__main__":
    sys.exit(main())
