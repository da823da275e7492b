"""What a runtime does on a GPU, as far as it shows without one: which engine, which sizes, which device.

A stand-in takes the place of CUDA graphs alone: it runs the half at once and notes what it was made for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_models import live_model, random_images, small_config
from torch import Tensor

import model.engines.cuda_graph
import model.engines.runtime
from model.engines.cache import EngineCache
from model.engines.cuda_graph import GraphedHalf
from model.engines.device import choose_device
from model.engines.halves import EncodeHalf, HalvesSpec, present
from model.engines.runtime import Runtime
from model.errors import EngineError
from model.network import FrameFeatures, Network

SPEC = HalvesSpec(height=64, width=96, num_frames=2, num_kept=4, with_cues=False)


class Graph:
    """Stands for a captured half."""

    made: list[tuple[int, ...]]
    full_at: int | None = None

    def __init__(
        self, half: Callable[..., Any], example: tuple[Tensor, ...], *, device: torch.device
    ) -> None:
        shape = tuple(example[0].shape)
        if len(shape) == 3 and shape[0] == self.full_at:  # tokens of so many frames
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.made.append(shape)
        self.inputs = example
        self._half = half

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = self._half(*tensors)
        return result

    lend = __call__


@pytest.fixture(scope="module")
def network() -> Network:
    return live_model(
        small_config(encoder_layers=1, num_frames=2, num_levels=3, num_points=2, query_selection="encoder")
    )


@pytest.fixture
def runtime(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setattr(model.engines.runtime, "GraphedHalf", Graph)
    monkeypatch.setattr(Graph, "made", [], raising=False)
    return Runtime(
        network, SPEC, engine="eager", precision="fp32", cache=EngineCache(tmp_path), max_windows=5
    )


def compiling(network: Network, spec: HalvesSpec) -> Any:
    raise AssertionError("compiled unasked")


def test_auto_is_eager_in_graphs_and_compiles_nothing(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.engines.inductor.compile_halves", compiling)
    engine = runtime._on_gpu("auto")
    assert engine.name == "eager"
    assert sorted(engine.decode) == [1, 2, 4]
    assert sorted(engine.encode_many) == [2, 4]
    assert isinstance(engine.encode, Graph)
    encoders = [shape for shape in Graph.made if len(shape) == 4]
    assert sorted(encoders) == [(1, 3, 64, 96), (2, 3, 64, 96), (4, 3, 64, 96)]


def test_inductor_by_name_compiles_one_size_and_decodes_others_eager(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[int] = []

    def compile_halves(network: Network, spec: HalvesSpec) -> Any:
        compiled.append(spec.num_windows)
        return EncodeHalf(network), runtime._eager.decode[spec.num_windows]

    monkeypatch.setattr("model.engines.inductor.compile_halves", compile_halves)
    engine = runtime._on_gpu("inductor")
    assert engine.name == "inductor"
    assert compiled == [4]
    assert sorted(engine.decode) == [1, 2, 4]


@pytest.mark.parametrize(("full_at", "fits"), [(8, "set model.max_batch=2"), (2, "take a smaller network")])
def test_out_of_memory_says_which_batch_fits(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, full_at: int, fits: str
) -> None:
    monkeypatch.setattr(Graph, "full_at", full_at)
    with pytest.raises(EngineError, match=f"too little memory for 4 windows at once: {fits}"):
        runtime._on_gpu("auto")


def test_a_half_that_cannot_be_captured_leaves_the_network_running_eager(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(model.engines.runtime, "GraphedHalf", refuse)
    assert runtime._on_gpu("auto") is runtime._eager
    assert "no CUDA graph: the network runs eager" in caplog.text
    with pytest.raises(EngineError, match="engine 'eager' is not available"):
        runtime._on_gpu("eager")


def test_frames_of_several_streams_are_encoded_together_in_their_order(runtime: Runtime) -> None:
    images = [random_images(1, 3, 64, 96, seed=seed) for seed in range(7)]
    alone = [runtime.encode(image) for image in images]
    sizes: list[int] = []
    half = EncodeHalf(runtime.network)

    def together(*tensors: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(tensors[0]))
        found: tuple[Tensor, ...] = half(*tensors)
        return found

    runtime._engine = replace(runtime._engine, encode_many={2: together, 4: together})
    got = [
        FrameFeatures.stack([features]) for features in runtime.encode_each([(each, None) for each in images])
    ]
    assert sizes == [4, 2]
    assert len(got) == len(alone) == 7
    for ours, theirs in zip(got, alone, strict=True):
        for one, other in zip(present(ours), present(theirs), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_wrong_batch_of_frames_fails_the_engines_check(runtime: Runtime) -> None:
    half = EncodeHalf(runtime.network)

    def swapped(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.flip(0) for tensor in half(*tensors))

    runtime._check(replace(runtime._eager, encode_many={2: half}))
    with pytest.raises(EngineError, match="differs from eager"):
        runtime._check(replace(runtime._eager, encode_many={2: swapped}))


def test_a_graph_is_captured_and_replayed_on_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cuda:1`, whichever device is the thread's: what torch.cuda is asked is noted."""
    asked: list[tuple[str, Any]] = []

    class Noted:
        def __init__(self, name: str, *about: Any) -> None:
            asked.append((name, about[0] if about else None))

        def wait_stream(self, other: Any) -> None: ...

        def replay(self) -> None:
            asked.append(("replay", current[-1]))

    current: list[Any] = ["the thread's"]

    class Device:
        def __init__(self, device: Any) -> None:
            self._device = device

        def __enter__(self) -> None:
            current.append(self._device)

        def __exit__(self, *_: object) -> None:
            current.pop()

    device = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "Stream", lambda *about: Noted("stream", *about))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *about: Noted("current", *about))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Noted("graph", current[-1]))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    graph = GraphedHalf(lambda x: (x + 1,), (torch.zeros(3),), device=device)
    assert {about for _, about in asked} == {device}
    asked.clear()
    (found,) = graph(torch.ones(3))
    assert ("replay", device) in asked
    assert torch.equal(graph.inputs[0], torch.ones(3))
    assert found.shape == (3,)
    assert current == ["the thread's"]


@pytest.mark.parametrize(
    ("count", "built", "told"),
    [
        (1, "13.0", "device 'cuda:7': torch sees one GPU: use cuda:0"),
        (2, "13.0", "device 'cuda:7': torch sees 2 GPUs here: use cuda:0, cuda:1"),
        (0, "13.0", "built for CUDA 13.0, so the driver may be missing or too old"),
        (0, None, "it is built without CUDA: use device 'cpu', or install torch with CUDA"),
    ],
)
def test_a_gpu_that_is_not_there_is_named_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, count: int, built: str | None, told: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.version, "cuda", built)
    with pytest.raises(EngineError, match=re.escape(told)):
        choose_device("cuda:7")
    if count == 2:
        assert choose_device("cuda:1") == torch.device("cuda", 1)
