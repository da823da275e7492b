"""How the network runs: device, precision and engine, behind one object with the cache seam's two calls.

    eager       torch's own kernels and ours, one after the other; always there
    inductor    both halves compiled by torch's compiler (`model.engines.inductor`)
    tensorrt    both halves built by TensorRT (`model.engines.tensorrt`), on a GPU alone; `auto` uses what
                was built
    auto        the best that is there: on a CPU eager begins at once; what was compiled before is loaded
                next to it, what was not is built by another process, and either is taken over when it is
                ready and checked

On a GPU every engine runs as CUDA graphs. An engine asked for by name is used or is an error; `auto` falls
back, once, and says why. Every engine is compared with eager on random input before it serves. Ours.

Dimensions: B windows, T frames, R cue planes, H × W pixels.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from model.config import EngineName, Precision
from model.engines.cache import EngineCache, engine_key
from model.engines.check import TOLERANCE, engine_error, frames_error
from model.engines.coming import Builder, Loading, build_engine, first_line
from model.engines.cuda_graph import GraphedHalf, Upload
from model.engines.device import choose_device, choose_dtype
from model.engines.halves import (
    DecodeHalf,
    EncodeHalf,
    Half,
    HalvesSpec,
    assembled,
    class_names,
    example_inputs,
    prepared,
    present,
    to_output,
)
from model.engines.ring import WindowBuffer
from model.errors import EngineError
from model.network import FrameFeatures, Network, Output

__all__ = ["ENGINES", "EngineName", "Runtime", "build_engine"]

logger = logging.getLogger(__name__)

ENGINES: tuple[EngineName, ...] = get_args(EngineName)


BUILD_SWITCH = "MSSTS_BUILD"
"""Environment variable; 0 keeps `auto` from compiling next to a running stream."""

BUILD_AFTER_SECONDS = 15.0
"""A stream that has run for so long is worth a minute of compiling."""

_CHECK_INPUTS = 3


@dataclass(frozen=True)
class _Engine:
    name: str
    encode: Half
    decode: Mapping[int, Half]
    """By the number of windows in a call; 1 is always there."""
    encode_many: Mapping[int, Half] = field(default_factory=dict)
    """By the number of frames in a call, more than one; none where frames are encoded one by one."""


class Runtime:
    """A network that answers for windows of one shape; on a CPU `encode` and `decode` may run side by side,
    each called by one thread.

    device: cpu, cuda, cuda:N or auto (a GPU where there is one). precision: fp32, bf16 or fp16, of what is
    not coordinates or scores; auto is bf16 on a GPU and on a CPU that has its arithmetic, else fp32. weights
    is the file that the network came from: `auto` builds from it in another process, and does not where there
    is none. max_windows: so many windows are decoded in one call where the engine has been made for it
    (eager, and inductor on a GPU), else one after the other.

    Raises EngineError where the engine asked for by name, the device or the precision is not available.
    """

    def __init__(
        self,
        network: Network,
        spec: HalvesSpec,
        *,
        engine: EngineName = "auto",
        device: str = "cpu",
        precision: Precision = "auto",
        weights: Path | None = None,
        cache: EngineCache | None = None,
        max_windows: int = 1,
    ) -> None:
        if max_windows < 1:
            raise ValueError(f"max_windows: {max_windows} must be at least 1")
        if engine not in ENGINES:
            raise ValueError(f"engine: {engine!r} is not one of {', '.join(ENGINES)}")
        self.spec = spec
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device)
        """Of what is not coordinates or scores; images may come in it."""
        self._precision = precision
        self.network = prepared(network).to(self.device)
        """The copy that runs, in eager mode."""
        if self.dtype != torch.float32:
            self.network.to_precision(self.dtype)
        self._upload = Upload(self.device) if self.device.type == "cuda" else None
        self._cache = EngineCache() if cache is None else cache
        self._weights = weights
        self._batches = [1 << power for power in range(max_windows.bit_length())]
        decoders = {size: DecodeHalf(self.network, self._batch_spec(size)) for size in self._batches}
        self._eager = self._engine = _Engine("eager", EncodeHalf(self.network), decoders)
        self._buffers = {size: WindowBuffer() for size in self._batches}
        on_cpu = self.device.type == "cpu"
        self._fits = 0
        """Windows at once that a GPU's memory was enough for."""
        self._decoded = False
        self._began = time.monotonic()
        self._coming: Loading[_Engine] | Builder[_Engine] | None = None
        self._may_load = engine == "auto" and on_cpu
        self._may_build = self._may_load and weights is not None and os.environ.get(BUILD_SWITCH) != "0"
        if not on_cpu:
            self._engine = self._on_gpu(engine)
            for size, decode in self._engine.decode.items():
                if isinstance(decode, GraphedHalf):
                    self._buffers[size] = WindowBuffer(assembled(self.network, spec, decode.inputs))
        elif engine == "tensorrt":
            raise EngineError(
                "engine 'tensorrt' is for GPUs: set model.device=cuda, or use inductor or eager"
            )
        elif engine == "inductor":
            self._engine = self._built()

    @property
    def engine(self) -> str:
        """Which engine serves now: eager, inductor or tensorrt."""
        return self._engine.name

    def upload(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Host tensors on the device, by way of pinned memory; on a CPU these very tensors."""
        return tensors if self._upload is None else self._upload(*tensors)

    @torch.inference_mode()
    def encode(self, images: Tensor, cues: Tensor | None = None, *, lent: bool = False) -> FrameFeatures:
        """`Network.encode_frames` of one frame: images (1, 3, H, W), cues (1, R, H, W) where the spec has
        them; both on the host, or both on the device already.

        With `lent` the next call may overwrite what this one returns, which saves a copy on a GPU.
        """
        self._poll()
        tensors: tuple[Tensor, ...] = (images,) if cues is None else (images, cues)
        if images.device.type != self.device.type:
            tensors = self.upload(*tensors)
        tensors = tuple(tensor.to(self.dtype) for tensor in tensors)  # a package reads what it was made for
        encode = self._engine.encode
        if lent and isinstance(encode, GraphedHalf):
            encode = encode.lend
        return assembled(self.network, self.spec, encode(*tensors))

    def encode_each(self, frames: Sequence[tuple[Tensor, Tensor | None]]) -> Iterator[FrameFeatures]:
        """`encode` of several frames (images, cues), `lent`, in their order: on a GPU together by powers of
        two, so that frames of several streams cost few launches."""
        left = list(frames)
        while left:
            size = max((size for size in self._engine.encode_many if size <= len(left)), default=1)
            chosen, left = left[:size], left[size:]
            if size == 1:
                yield self.encode(*chosen[0], lent=True)
                continue
            images, cues = zip(*chosen, strict=True)
            yield from self._encode_together(size, images, tuple(each for each in cues if each is not None))

    @torch.inference_mode()
    def _encode_together(
        self, size: int, images: Sequence[Tensor], cues: Sequence[Tensor]
    ) -> list[FrameFeatures]:
        placed = [self._placed(*each) for each in (images, cues) if each]
        half = self._engine.encode_many[size]
        half = half.lend if isinstance(half, GraphedHalf) else half
        features = assembled(self.network, self.spec, half(*(torch.cat(each) for each in placed)))
        return [features[index] for index in range(size)]

    def _placed(self, *tensors: Tensor) -> list[Tensor]:
        """The tensors on the device, in the network's type."""
        return [
            (tensor if tensor.device.type == self.device.type else self.upload(tensor)[0]).to(self.dtype)
            for tensor in tensors
        ]

    @torch.inference_mode()
    def decode(self, frames: FrameFeatures | Sequence[FrameFeatures], *, num_windows: int = 1) -> Output:
        """`Network.decode_window` of num_windows × T frames, for its kept queries.

        frames: all in a row, or one by one (N = 1), which are brought together in memory that is kept for it.
        Windows are decoded together by powers of two, as far as the engine has them.
        """
        engine = self._engine
        T = len(frames) // num_windows
        if self.spec.num_frames != T and not (engine.name == "eager" and self.device.type == "cpu"):
            raise ValueError(
                f"windows of {T} frames: engine {engine.name!r} on {self.device} was made for "
                f"{self.spec.num_frames}; eager on the CPU takes any length"
            )
        parts, first = [], 0
        while first < num_windows:
            size = max(size for size in engine.decode if size <= num_windows - first)
            chosen = frames[first * T : (first + size) * T]
            features = chosen if isinstance(chosen, FrameFeatures) else self._buffers[size].fill(chosen)
            parts.append(engine.decode[size](*present(features)))
            first += size
        self._decoded = True
        return to_output(parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True))))

    def _batch_spec(self, size: int) -> HalvesSpec:
        return replace(self.spec, num_windows=size)

    def _on_gpu(self, engine: EngineName) -> _Engine:
        """The engine by name, as CUDA graphs; for `auto` what TensorRT built before, else eager: compiling at
        every start takes minutes.

        Raises EngineError where a named one is not available, or memory is too small for `max_windows`.
        """
        for name in ("tensorrt", "eager") if engine == "auto" else (engine,):
            try:
                halves = self._gpu_halves(name, only_found=engine == "auto")
                if halves is None:
                    continue
                graphs = self._graphed(name, *halves)
                self._check(graphs)
            except torch.OutOfMemoryError as exc:
                raise EngineError(self._too_large(exc)) from exc
            except EngineError as exc:
                if engine != "auto":
                    raise
                logger.warning("engine %s left out: %s", name, first_line(exc))
            except Exception as exc:  # torch's compiler and the driver have no base class of their own
                if engine != "auto":
                    raise EngineError(
                        f"engine {name!r} is not available on {self.device}: {first_line(exc)}"
                    ) from exc
                logger.warning("engine %s left out: %s", name, first_line(exc))
            else:
                return graphs
        logger.warning("no CUDA graph: the network runs eager on %s", self.device)
        return self._eager

    def _graphed(self, name: str, encode: Half, decode: Mapping[int, Half]) -> _Engine:
        """The halves as CUDA graphs, one for each number of windows."""
        frame, _ = example_inputs(self.network, self.spec)
        graphs: dict[int, Half] = {}
        many: dict[int, Half] = {}
        with torch.inference_mode():
            for size, half in sorted(decode.items()):
                example = example_inputs(self.network, self._batch_spec(size))[1]
                graphs[size] = GraphedHalf(half, example, device=self.device)
                if name == "eager" and size > 1:
                    frames = tuple(tensor.repeat(size, 1, 1, 1) for tensor in frame)
                    many[size] = GraphedHalf(encode, frames, device=self.device)
                self._fits = size
            return _Engine(name, GraphedHalf(encode, frame, device=self.device), graphs, many)

    def _too_large(self, exc: torch.OutOfMemoryError) -> str:
        """What to say where the GPU's memory is too small."""
        remedy = f"set model.max_batch={self._fits}, which fits" if self._fits else "take a smaller network"
        if self._fits == self._batches[-1]:
            remedy = "free memory of the GPU, or set model.max_batch lower"
        return (
            f"{self.device} has too little memory for {self._batches[-1]} windows at once: {remedy} ({exc})"
        )

    def _gpu_halves(self, name: str, *, only_found: bool) -> tuple[Half, Mapping[int, Half]] | None:
        """The halves of an engine; with only_found None for what would have to be built for minutes."""
        if name == "eager":
            if self.dtype != torch.float32:
                self.network.norms_to_precision(self.dtype)
            return self._eager.encode, self._eager.decode
        if name == "inductor":
            from model.engines.inductor import compile_halves

            # One size, the largest: each takes a minute. Fewer windows are decoded eager.
            largest = self._batches[-1]
            encode, decode = compile_halves(self.network, self._batch_spec(largest))
            return encode, {**self._eager.decode, largest: decode}
        # Looked for first: without its libraries an import of torch_tensorrt prints and raises.
        if only_found and not any(self._cache.root.glob("*/key.json")):
            return None
        from model.engines.tensorrt import build_engines, load_engines, versions

        key = engine_key(self.network, self.spec, engine="tensorrt") | versions()
        if only_found and self._cache.find(key) is None:
            return None
        folder = self._cache.make(key, lambda path: build_engines(self.network, self.spec, path))
        encode, decode = load_engines(folder)
        return encode, {1: decode}

    def _key(self) -> dict[str, object]:
        return engine_key(self.network, self.spec, engine="inductor")

    def _built(self) -> _Engine:
        """The compiled engine, built here and now where it is not in the cache."""
        began = time.monotonic()
        folder = build_engine(self.network, self.spec, cache=self._cache)
        try:
            engine = self._load(folder)
        except Exception as exc:  # a damaged package raises what torch's loader raises
            raise EngineError(
                f"engine 'inductor' is not available: {first_line(exc)}; delete {str(folder)!r} to build "
                "it again; model.engine=eager runs without"
            ) from exc
        logger.info("engine inductor ready after %.1f s", time.monotonic() - began)
        return engine

    def _found(self) -> _Engine | None:
        """The compiled engine from the cache, checked; None where there is none or it is no good."""
        folder = self._cache.find(self._key())
        if folder is None:
            return None
        try:
            return self._load(folder, side_by_side=True)
        except Exception as exc:  # a damaged package raises what torch's loader raises
            logger.warning("engine inductor left out, eager goes on: %s", first_line(exc))
            self._may_build = False
            return None

    def _load(self, folder: Path, *, side_by_side: bool = False) -> _Engine:
        """Load and compare with eager.

        Raises EngineError where they differ, or with side_by_side would hold Python's lock (slower than
        eager in a stream), what torch raises for a bad file.
        """
        from model.engines.inductor import load_packages

        encode, decode = load_packages(folder, side_by_side=side_by_side)
        engine = _Engine("inductor", encode, {1: decode})
        self._check(engine)
        return engine

    def _check(self, engine: _Engine) -> None:
        """Raises EngineError where the engine differs from eager on random input: on all of a few."""
        specs = {size: self._batch_spec(size) for size in self._batches}
        halves = [(each.encode, each.decode) for each in (engine, self._eager)]
        allowed, errors = TOLERANCE[self.dtype], []
        for seed in range(_CHECK_INPUTS):
            errors.append(engine_error(self.network, specs, halves[0], halves[1], seed=seed))
            for size, half in engine.encode_many.items():
                error = frames_error(self.network, specs[1], half, self._eager.encode, size=size, seed=seed)
                errors[-1] = max(errors[-1], error) if error == error else error
            if errors[-1] <= allowed:
                return
        raise EngineError(
            f"engine {engine.name!r} differs from eager by {min(errors):.1e} of the largest value, allowed "
            f"{allowed:.0e}"
        )

    def _poll(self) -> None:
        """Once a frame: load what is in the cache, or build once the stream is worth it; take over what is
        ready."""
        if self._coming is not None:
            if not self._coming.done:
                return
            if self._coming.engine is not None:
                self._engine = self._coming.engine
                self._may_build = False
                logger.info("engine %s serves", self._engine.name)
            self._coming = None
        elif self._may_load and self._decoded:  # the first window comes before everything else
            self._may_load = False
            self._began = time.monotonic()
            self._coming = Loading(self._found)
        elif self._may_build and self._decoded and time.monotonic() - self._began >= BUILD_AFTER_SECONDS:
            self._may_build = False
            assert self._weights is not None
            self._coming = Builder(
                self._weights,
                self.spec,
                self._cache.root,
                self._found,
                precision=self._precision,
                classes=class_names(self.network, self.spec),
            )
