"""The part of the GPU report on the network: is it right there, and how many frames a second does each engine give.

Random weights, which cost the same as others; needs nothing besides torch and numpy. A frame is what a stream does
for it: upload, encode, decode of the window that it completes, candidates on the host. With several streams, one
frame of each and one decode for all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from benchmarks.gpu_timing import time_us
from torch import Tensor

from model.config import EngineName, ModelConfig, Precision
from model.engines.halves import HalvesSpec
from model.engines.ring import FeatureRing
from model.engines.runtime import Runtime
from model.errors import EngineError
from model.network import FrameFeatures, Output, build_model
from model.postprocess import ComingCandidates

R50 = ModelConfig.from_dict(
    {
        "backbone": "resnet50",
        "backbone_width": 1.0,
        "norm": "frozen_bn",
        "cues": [],
        "hidden_dim": 256,
        "num_heads": 8,
        "num_points": 4,
        "ffn_dim": 1024,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "num_queries": 300,
        "query_selection": "learned",
        "sts_dim": 64,
        "sts_heads": 8,
        "mask_source": "level1",
        "mask_dim": None,
        "mask_coordinate_scale": 1.0,
        "class_list": "youtube_vis_2019",
        "num_outputs": 42,
        "height": 360,
        "width": 640,
        "num_frames": 5,
    }
)
"""`configs/r50.yaml`, which a machine without PyYAML cannot read; a test keeps both the same."""

TINY = ModelConfig.from_dict(
    {
        "num_frames": 2,
        "backbone_width": 0.25,
        "hidden_dim": 32,
        "ffn_dim": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "num_queries": 8,
        "query_selection": "learned",
        "cues": ["background"],
        "sts_dim": 16,
        "mask_dim": 16,
        "height": 64,
        "width": 96,
    }
)
"""Of a dry run."""

TOLERANCE = 2e-3  # of the largest value, float32 on both sides
PREDICTED = {
    ("R50 split", 1): "encode 0.53 ms, decode 5.5 ms, 165 frames/s",
    ("R50 split", 8): "250 frames/s",
}
"""Computed for an H200: eager under a graph, encode frame by frame."""
TARGETS = {("R50 split", 1): "≥ 250 frames/s, p50 ≤ 4 ms on an H200", ("R50 split", 8): "≥ 900 frames/s"}


@dataclass(frozen=True)
class Case:
    """A network as it is run."""

    model: str
    config: ModelConfig
    engine: EngineName
    precision: Precision
    num_streams: int = 1
    num_kept: int = 20


DEFAULT = ModelConfig.from_dict(
    {
        "backbone": "csp",
        "query_selection": "detector",
        "mask_source": "picture",
        "mask_channels": 16,
        "mask_coordinates": "box",
        "class_list": "coco_and_object",
        "height": 256,
        "width": 416,
    }
)
"""Of the weights that ship, which a machine without safetensors cannot read; a test keeps both the same."""
CASES = (
    Case("R50 split", R50, "eager", "bf16"),
    Case("R50 split", R50, "eager", "bf16", num_streams=8),
    Case("default", DEFAULT, "eager", "bf16"),
    Case("default", DEFAULT, "eager", "bf16", num_streams=8),
    Case("R50 split", R50, "inductor", "bf16"),
    Case("R50 split", R50, "eager", "fp16"),
    Case("default", DEFAULT, "inductor", "bf16"),
    Case("R50 split", R50, "inductor", "bf16", num_streams=8),
    Case("R50 split", R50, "eager", "fp32"),
    Case("default", DEFAULT, "eager", "fp32"),
)
"""The most telling ones first: the time may not be enough for all."""


def frames_of(config: ModelConfig, num: int) -> list[tuple[Tensor, Tensor | None]]:
    """Random normalised frames (1, 3, H, W) on the host, with their cues (1, R, H, W) where there are any."""
    generator = torch.Generator().manual_seed(0)
    size = (config.height, config.width)
    planes = config.num_cue_planes
    return [
        (
            torch.randn(1, 3, *size, generator=generator),
            torch.rand(1, planes, *size, generator=generator) if planes else None,
        )
        for _ in range(num)
    ]


def make_runtime(case: Case, device: torch.device) -> Runtime:
    """Raises EngineError where it is not available."""
    config = case.config
    spec = HalvesSpec(
        height=config.height,
        width=config.width,
        num_frames=config.num_frames,
        num_kept=case.num_kept,
        with_cues=bool(config.cues),
    )
    network = build_model(config, seed=0, class_bias=0.0)
    return Runtime(
        network,
        spec,
        engine=case.engine,
        device=str(device),
        precision=case.precision,
        max_windows=case.num_streams,
    )


class Streams:
    """As many streams as the case has, all at stride 1; `step` is one frame of each."""

    def __init__(self, case: Case, runtime: Runtime) -> None:
        self._config, self._runtime = case.config, runtime
        self._frames = frames_of(case.config, 2 * case.config.num_frames)
        self._rings = [FeatureRing(case.config.num_frames) for _ in range(case.num_streams)]
        self._number = 0
        for _ in range(case.config.num_frames - 1):
            self._encode()

    def _encode(self) -> range:
        """One frame more of each stream; return the numbers of the frames that are kept."""
        kept = range(max(0, self._number + 1 - self._config.num_frames), self._number + 1)
        for stream, ring in enumerate(self._rings):
            images, cues = self.frame(stream, self._number)
            ring.keep(kept)
            ring.store(self._number, self._runtime.encode(images, cues, lent=True))
        self._number += 1
        return kept

    def frame(self, stream: int, number: int) -> tuple[Tensor, Tensor | None]:
        """A stream's frame by its number."""
        return self._frames[(number + stream) % len(self._frames)]

    @property
    def num_slots(self) -> int:
        """Slots of all rings."""
        return sum(ring.num_slots for ring in self._rings)

    def on_device(self) -> Output:
        """All of a step that happens on the device."""
        kept = self._encode()
        frames = [ring[number] for ring in self._rings for number in kept]
        return self._runtime.decode(frames, num_windows=len(self._rings))

    def step(self) -> int:
        """Return the candidates found, which are on the host then."""
        return sum(len(found) for found in ComingCandidates(self.on_device(), self._config).wait())

    def halves_ms(self, device: torch.device) -> tuple[float, float]:
        """Milliseconds on the device of `encode` of one frame and `decode` of a window of each stream."""
        images, cues = self.frame(0, 0)
        images, cues = images.to(device), None if cues is None else cues.to(device)
        kept = self._encode()
        frames = [ring[number] for ring in self._rings for number in kept]
        steps = (
            lambda: self._runtime.encode(images, cues, lent=True),
            lambda: self._runtime.decode(frames, num_windows=len(self._rings)),
        )
        encode_us, decode_us = (time_us(step, device, calls=5) for step in steps)
        return encode_us / 1e3, decode_us / 1e3

    def begin(self) -> ComingCandidates:
        """A step that the host does not wait for."""
        return ComingCandidates(self.on_device(), self._config)


def time_case(case: Case, device: torch.device, *, seconds: float = 3.0, least: int = 20) -> dict[str, Any]:
    """Frames a second and milliseconds of a step; `why` where the engine is not available."""
    row: dict[str, Any] = {
        "model": case.model,
        "size": f"{case.config.width}×{case.config.height}",
        "num_frames": case.config.num_frames,
        "engine": case.engine,
        "precision": case.precision,
        "streams": case.num_streams,
    }
    began = time.perf_counter()
    try:
        runtime = make_runtime(case, device)
    except (EngineError, RuntimeError) as exc:
        return row | {"why": str(exc).splitlines()[0]}
    streams = Streams(case, runtime)
    for _ in range(5):
        streams.step()
    row["ready_seconds"] = time.perf_counter() - began
    held = _allocated(device)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < least or time.perf_counter() - began < seconds:
        begin = time.perf_counter()
        streams.step()
        times.append(time.perf_counter() - begin)
    times.sort()
    grown = _allocated(device) - held
    encode_ms, decode_ms = streams.halves_ms(device)
    begun, began = streams.begin(), time.perf_counter()
    for _ in times:
        before, begun = begun, streams.begin()
        before.wait()
    begun.wait()
    two_open = time.perf_counter() - began
    return row | {
        "served": runtime.engine,
        "frames_per_second": case.num_streams * len(times) / sum(times),
        "frames_per_second_two_open": case.num_streams * len(times) / two_open,
        "p50_ms": statistics.median(times) * 1e3,
        "p95_ms": times[int(0.95 * len(times))] * 1e3,
        "steps": len(times),
        "encode_ms": encode_ms,
        "decode_ms": decode_ms,
        "launches": launches(streams.on_device, device),
        "grown_bytes": grown,
    }


def launches(step: Callable[[], object], device: torch.device) -> int | None:
    """Kernels that the device ran for a step, as its profiler saw them; None on a CPU."""
    if device.type != "cuda":
        step()
        return None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize(device)
    return sum(
        event.device_type == torch.autograd.DeviceType.CUDA
        and not event.name.startswith(("Memcpy", "Memset"))
        for event in profile.events()
    )


def check_against_cpu(device: torch.device, config: ModelConfig) -> dict[str, Any]:
    """Every output of every query in float32, here and on the CPU, without a choice that rounding could change."""
    name = "the network in float32 against the CPU"
    if config.query_selection != "learned":
        raise ValueError("the check needs learned queries: others are chosen by order")
    network = build_model(config, seed=0, class_bias=0.0)
    clip = torch.randn(1, config.num_frames, 3, 96, 160, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), _exact_products():
        wanted = network(clip)
        got = network.to(device)(clip.to(device))
    errors = []
    for field in ("logits", "boxes", "mask_logits", "query_embeddings"):
        ours, theirs = getattr(got, field).cpu(), getattr(wanted, field)
        errors.append((ours - theirs).abs().max() / theirs.abs().max())
    error = float(torch.stack(errors).max())
    return {"name": name, "passed": error <= TOLERANCE, "error": error, "limit": TOLERANCE}


def check_no_waiting(case: Case, device: torch.device) -> dict[str, Any]:
    """Until a window's results are asked for, the host never waits for the device: torch's own watch on a GPU
    raises."""
    name = f"{case.model}: no hidden wait up to the results"
    streams = Streams(case, make_runtime(case, device))
    streams.step()
    try:
        with _waiting_is_an_error(device):
            coming = [streams.begin() for _ in range(3)]
    except RuntimeError as exc:
        return {"name": name, "passed": False, "why": str(exc).splitlines()[0]}
    for each in coming:
        each.wait()
    return {"name": name, "passed": True}


def check_two_open(case: Case, device: torch.device) -> dict[str, Any]:
    """Windows of which the next is begun before they are finished give what they give one by one."""
    name = f"{case.model}: two windows open at once"
    one_by_one, ahead = (Streams(case, make_runtime(case, device)) for _ in range(2))
    begun = ahead.begin()
    for step in range(2 * case.config.num_frames):
        before, begun = begun, ahead.begin()
        for got, wanted in zip(before.wait(), one_by_one.begin().wait(), strict=True):
            for ours, theirs in ((got.scores, wanted.scores), (got.mask_logits, wanted.mask_logits)):
                if not (ours == theirs).all():
                    return {"name": name, "passed": False, "why": f"window {step} differs"}
    return {"name": name, "passed": True}


def check_batch(case: Case, device: torch.device) -> dict[str, Any]:
    """Two windows in one batch give what each gives alone."""
    name = f"{case.model}: two windows in a batch against each alone"
    runtime = make_runtime(replace(case, num_streams=2), device)
    frames = [runtime.encode(*frame) for frame in frames_of(case.config, 2 * case.config.num_frames)]
    T = case.config.num_frames
    wanted = [runtime.decode(FrameFeatures.stack(each)) for each in (frames[:T], frames[T:])]
    got = runtime.decode(FrameFeatures.stack(frames), num_windows=2)
    theirs = torch.cat([output.logits for output in wanted]).float()
    error = float((got.logits.float() - theirs).abs().max() / theirs.abs().max())
    limit = {"fp32": TOLERANCE, "fp16": 2e-2, "bf16": 1e-1}.get(case.precision, TOLERANCE)
    return {"name": name, "passed": error <= limit, "error": error, "limit": limit}


def check_ring(case: Case, device: torch.device) -> dict[str, Any]:
    """Windows from the ring, which takes over what the engine lends, equal those of features kept one by one;
    slots are used again and no more are made."""
    name = f"{case.model}: windows from the ring of features"
    T = case.config.num_frames
    runtime = make_runtime(case, device)
    streams = Streams(case, runtime)
    for step in range(2 * T):
        got = streams.on_device().mask_logits
        own = [runtime.encode(*streams.frame(0, step + place)) for place in range(T)]
        wanted = runtime.decode(FrameFeatures.stack(own)).mask_logits
        if not torch.equal(got, wanted):
            return {"name": name, "passed": False, "why": f"window {step} differs"}
    slots = streams.num_slots
    return {"name": name, "passed": slots == T, "why": "" if slots == T else f"{slots} slots for {T} frames"}


def page(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The timings as lines of Markdown."""
    lines = [
        "Random weights, stride 1: upload, encode, decode, candidates on the host; 20 instances kept. With several",
        "streams a step is one frame of each and one decode for all. `two open`: a step is begun before the results of",
        "the one before are waited for. `encode`, `decode`: milliseconds on the device, of one frame and of a window of",
        "each stream. `launches`: kernels of a step. `grown`: device memory after the measurement beyond that before it.",
        "",
        "| model | streams | engine | type | frames/s | two open | p50 ms | p95 ms | encode | decode | launches "
        "| ready after s | grown | predicted | target |",
        "|" + " --- |" * 15,
    ]
    for row in rows:
        sized = "size" in row
        name = f"{row['model']}, {row['size']}, T = {row['num_frames']}" if sized else row["model"]
        head = f"| {name} | {row['streams']} | {row['engine']} | {row['precision']} |"
        if "why" in row:
            lines.append(f"{head}" + " |" * 10 + f" {row['why'].replace('|', '/')} |")
            continue
        key = (row["model"], row["streams"])
        low = row["precision"] != "fp32"
        predicted = PREDICTED.get(key, "") if low and row["engine"] == "eager" else ""
        cells = [
            f"{row['frames_per_second']:.1f}",
            f"{row['frames_per_second_two_open']:.1f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p95_ms']:.2f}",
            f"{row['encode_ms']:.2f}",
            f"{row['decode_ms']:.2f}",
            "" if row["launches"] is None else str(row["launches"]),
            f"{row['ready_seconds']:.0f}",
            str(row["grown_bytes"]),
            predicted,
            TARGETS.get(key, "") if low else "",
        ]
        lines.append(f"{head} {' | '.join(cells)} |")
    return [*lines, ""]


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


@contextmanager
def _waiting_is_an_error(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _exact_products() -> Iterator[None]:
    """Without TF32, which a GPU takes for convolutions."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
