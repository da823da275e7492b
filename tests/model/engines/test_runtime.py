"""Engines: what is compiled equals eager, is kept on disk, and is left out where it is not available."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.capture import HostOperations
from support.small_models import live_model, random_images, small_config
from torch import Tensor
from torch.overrides import TorchFunctionMode

import model.engines.device
import model.engines.runtime
from model.checkpoint.weights_file import save_weights
from model.config import ModelConfig
from model.engines.cache import EngineCache, engine_key
from model.engines.check import TOLERANCE, engine_error
from model.engines.device import choose_dtype
from model.engines.halves import (
    DecodeHalf,
    EncodeHalf,
    HalvesSpec,
    class_names,
    example_inputs,
    prepared,
    spec_outputs,
)
from model.engines.inductor import ENCODE
from model.engines.package_runner import PackageRunner, runner_library
from model.engines.ring import FeatureRing, WindowBuffer
from model.engines.runtime import Runtime
from model.errors import EngineError
from model.network import FrameFeatures, Network, Output, build_model
from model.postprocess import ComingCandidates
from model.verbs.engines import add_network_options, compile_engine, network_and_spec
from pipeline.process import tune_process

pytestmark = pytest.mark.timeout(600)  # for the one test that waits for the compiler

SPEC = HalvesSpec(height=64, width=96, num_frames=2, num_kept=4, with_cues=False)


@pytest.fixture(scope="module")
def network() -> Network:
    """Small enough to be compiled in a test: one encoder layer, two decoder layers, two levels."""
    return live_model(
        small_config(encoder_layers=1, num_frames=2, num_levels=3, num_points=2, query_selection="encoder")
    )


@pytest.fixture(scope="module")
def weights(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(network, path, name="small", trained=False)
    return path


@pytest.fixture(scope="module")
def cache(network: Network, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    """A cache that `auto` has filled next to a stream, by the real process: built once for all tests."""
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSSTS_BUILD", "1")
        patch.setattr(model.engines.runtime, "BUILD_AFTER_SECONDS", 0.0)
        runtime = Runtime(network, SPEC, precision="fp32", engine="auto", weights=weights, cache=cache)
        assert runtime.engine == "eager"
        expected = runtime.decode(window(runtime))

        wait_until(lambda: serves_compiled(runtime), 550)
        assert_close(runtime.decode(window(runtime)).mask_logits, expected.mask_logits)
    return cache


def window(runtime: Runtime, seed: int = 0) -> FrameFeatures:
    images = random_images(2, 3, 64, 96, seed=seed)
    return FrameFeatures.stack([runtime.encode(image[None]) for image in images])


def serves_compiled(runtime: Runtime) -> bool:
    """One window more; whether the compiled engine was taken over."""
    runtime.decode(window(runtime))
    return runtime.engine == "inductor"


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def wait_until(done: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it took too long"
        time.sleep(1.0)  # the child has the lower priority


@torch.inference_mode()
def test_eager_is_the_network_itself(network: Network) -> None:
    runtime = Runtime(network, SPEC, precision="fp32", engine="eager")
    output = runtime.decode(window(runtime))
    expected = network.decode_window(network.encode_frames(random_images(2, 3, 64, 96)), num_kept=4)
    assert runtime.engine == "eager"
    assert torch.equal(output.kept, expected.kept)
    for name in ("logits", "boxes", "mask_logits", "query_embeddings"):
        assert_close(getattr(output, name), getattr(expected, name))


@pytest.mark.parametrize("norm", ["bn", "frozen_bn", "gn"])
@pytest.mark.parametrize(("backbone", "cues"), [("resnet18", ["background"]), ("resnet50", [])])
@torch.inference_mode()
def test_folded_norms_change_nothing(norm: str, backbone: str, cues: list[str]) -> None:
    network = live_model(small_config(norm=norm, backbone=backbone, cues=cues, backbone_width=0.25))
    generator = torch.Generator().manual_seed(3)
    for name, value in network.backbone.state_dict().items():
        if "running" in name or (norm == "frozen_bn" and ".bn" in name):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    ready = prepared(network)
    kinds = {type(module).__name__ for module in ready.backbone.modules()}
    assert ("GroupNorm" in kinds) == (norm == "gn")
    assert not kinds & {"BatchNorm2d", "FrozenBatchNorm2d"}
    images = random_images(1, 3, 64, 96)
    planes = torch.rand(1, 1, 64, 96, generator=generator) if cues else None
    for ours, theirs in zip(ready.backbone(images, planes), network.backbone(images, planes), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("max_windows", [1, 2, 5])
@torch.inference_mode()
def test_windows_are_decoded_together_as_each_alone(network: Network, max_windows: int) -> None:
    runtime = Runtime(network, SPEC, precision="fp32", engine="eager", max_windows=max_windows)
    features = [window(runtime, seed) for seed in range(3)]
    together = runtime.decode(FrameFeatures.stack(features), num_windows=3)
    for place, each in enumerate(features):
        alone = runtime.decode(each)
        for name in ("logits", "boxes", "mask_logits", "query_embeddings"):
            assert_close(getattr(together, name)[place], getattr(alone, name)[0])
        assert torch.equal(together.kept[place], alone.kept[0])
    with pytest.raises(ValueError, match="max_windows: 0"):
        Runtime(network, SPEC, precision="fp32", engine="eager", max_windows=0)


class Choices(TorchFunctionMode):
    """Notes choices by a list of Python, which is brought to the device each time, unseen by operations."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list) for part in parts):
                self.found.append(args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"query_selection": "learned", "mask_source": "level1"},
        {"variant": "baseline"},
        {"class_list": "youtube_vis_2019", "num_outputs": 42},
    ],
    ids=["default", "paper", "baseline", "unused outputs"],
)
@torch.inference_mode()
def test_no_step_of_a_window_waits_for_the_device_or_brings_anything_to_it(changes: dict[str, Any]) -> None:
    """On a GPU any would stop the host in every window. The network lies on the meta device, which computes
    nothing: what needs a value (item, nonzero, a choice by a mask) is torch's own error there."""
    config = ModelConfig.from_dict(changes)
    with torch.device("meta"):
        network = Network(config).eval()
        images, cues = torch.empty(1, 3, 192, 320), torch.empty(1, config.num_cue_planes, 192, 320)

    def one_window() -> Output:
        ring.keep({0})
        ring.store(0, network.encode_frames(images, cues))
        output = network.decode_window(buffer.fill([ring[0]] * 3), num_kept=20)
        ComingCandidates(output, config)
        return output

    ring, buffer = FeatureRing(3), WindowBuffer()
    one_window()  # tables are made and brought to the device once
    with HostOperations() as operations, Choices() as choices:
        output = one_window()
    assert output.mask_logits.shape == (1, 20, 3, 48, 80)
    assert operations.found == choices.found == []

    with HostOperations() as operations:
        images.new_zeros(2) + torch.ones(2).to("meta")
    with Choices() as choices:
        images[..., [0, 1]]
        images[0] = 0
    assert operations.found, "what the test looks for is seen"
    assert choices.found == [(..., [0, 1])]
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(output.logits.max())
    with pytest.raises((RuntimeError, NotImplementedError)):
        output.logits[output.logits > 0]


def test_a_compiled_engine_equals_eager_and_is_built_once(
    network: Network, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it was in the cache")

    monkeypatch.setattr("model.engines.inductor.build_packages", refuse)
    compiled = Runtime(network, SPEC, precision="fp32", engine="inductor", cache=cache)
    found = Runtime(network, SPEC, precision="fp32", engine="auto", cache=cache)
    eager = Runtime(network, SPEC, precision="fp32", engine="eager")
    assert (compiled.engine, found.engine) == ("inductor", "eager")  # auto begins at once
    wait_until(lambda: serves_compiled(found), 60)
    for seed in range(3):
        features, wanted = window(compiled, seed), window(eager, seed)
        assert_close(features.tokens, wanted.tokens)
        output, expected = compiled.decode(wanted), eager.decode(wanted)
        assert torch.equal(output.kept, expected.kept)
        for name in ("logits", "boxes", "mask_logits", "query_embeddings"):
            assert_close(getattr(output, name), getattr(expected, name))


def others_run(call: Any) -> int:
    """How often another thread had its turn during many calls, threads never being made to change."""
    turns, stop, ready = 0, False, threading.Event()

    def take_turns() -> None:
        nonlocal turns
        while not stop:
            turns += 1
            ready.set()
            time.sleep(0)

    before = sys.getswitchinterval()
    other = threading.Thread(target=take_turns)
    sys.setswitchinterval(100.0)
    try:
        other.start()
        ready.wait()
        first = turns
        for _ in range(100):
            call()
        return turns - first
    finally:
        stop = True
        sys.setswitchinterval(before)
        other.join()


def test_a_compiled_half_leaves_pythons_lock_free(network: Network, cache: EngineCache) -> None:
    ready = prepared(network)
    path = cache.folder(engine_key(ready, SPEC, engine="inductor")) / ENCODE
    frame = list(example_inputs(ready, SPEC)[0])
    ours, torchs = PackageRunner(path), torch._inductor.aoti_load_package(str(path))
    for one, other in zip(ours(*frame), torchs(*frame), strict=True):
        assert torch.equal(one, other)
    runner = ours._loaded.runner
    assert runner is not None
    assert others_run(lambda: ours._run(runner, frame)) > 0


def test_a_package_is_freed_when_the_call_under_way_has_ended(
    network: Network, cache: EngineCache, tmp_path: Path
) -> None:
    ready = prepared(network)
    path = cache.folder(engine_key(ready, SPEC, engine="inductor")) / ENCODE
    frame, _ = example_inputs(ready, SPEC)
    half = PackageRunner(path)
    said: list[str] = []

    def work() -> None:
        try:
            while True:
                half(*frame)
        except RuntimeError as exc:
            said.append(str(exc))

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.2)
    half._loaded.free()
    worker.join(timeout=60)
    assert said == ["the program ends: the package is closed"]


def test_a_package_of_half_precision_runs(tmp_path: Path) -> None:
    class Halve(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x / 2, x.argmax()[None]

    given = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    path = tmp_path / "halve.pt2"
    torch._inductor.aoti_compile_and_package(torch.export.export(Halve(), (given,)), package_path=str(path))
    halves, largest = PackageRunner(path)(given)
    assert halves.dtype == torch.bfloat16
    assert torch.equal(halves, given / 2)
    assert largest.tolist() == [5]


def test_a_package_says_what_it_does_not_take(network: Network, cache: EngineCache, tmp_path: Path) -> None:
    ready = prepared(network)
    folder = cache.folder(engine_key(ready, SPEC, engine="inductor"))
    frame, _ = example_inputs(ready, SPEC)
    half = PackageRunner(folder / ENCODE)
    with pytest.raises(ValueError, match=r"float16.*float32, torch\.int64"):
        half(frame[0].half())
    assert len(half(*frame)) == len(EncodeHalf(ready)(*frame))  # it goes on
    (tmp_path / "none.pt2").write_bytes(b"no package")
    with pytest.raises(RuntimeError, match=r"\w"):
        PackageRunner(tmp_path / "none.pt2")


def test_without_a_compiler_a_found_package_runs_with_the_lock_held(
    network: Network,
    cache: EngineCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runner_library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            runtime = Runtime(network, SPEC, precision="fp32", engine="inductor", cache=cache)
    finally:
        runner_library.cache_clear()
    assert "compiled halves will not run side by side: the C++ compiler" in caplog.text
    eager = Runtime(network, SPEC, precision="fp32", engine="eager")
    features = window(eager)
    assert_close(runtime.decode(features).mask_logits, eager.decode(features).mask_logits)


def test_without_a_compiler_auto_stays_eager(
    network: Network,
    cache: EngineCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runner_library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            runtime = Runtime(network, SPEC, precision="fp32", engine="auto", cache=cache)
            runtime.decode(window(runtime))
            while not caplog.messages:
                window(runtime)
    finally:
        runner_library.cache_clear()
    assert runtime.engine == "eager"
    assert len(caplog.messages) == 1
    assert "compiled halves would not run side by side here" in caplog.text


def test_a_program_that_ends_while_an_engine_is_loaded_ends_well(
    cache: EngineCache, weights: Path, tmp_path: Path
) -> None:
    script = f"""
import threading
import torch
from pathlib import Path
from model.checkpoint.weights_file import load_weights
from model.engines.cache import EngineCache
from model.network import FrameFeatures
from model.engines.runtime import Runtime
from model.engines.halves import HalvesSpec
weights = Path({str(weights)!r})
cache = EngineCache(Path({str(cache.root)!r}))
runtime = Runtime(load_weights(weights), {SPEC!r}, precision="fp32", weights=weights, cache=cache)
def stream():
    images = torch.zeros(1, 3, 64, 96)
    runtime.decode(FrameFeatures.stack([runtime.encode(images)] * 2))
    runtime.encode(images)
inference = threading.Thread(target=stream, daemon=True)  # as a stream's, whose threads inherit that
inference.start()
inference.join()
print(runtime.engine, type(runtime._coming).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stdout.split()) == (0, ["eager", "Loading"]), done.stderr


def test_compile_makes_the_engine_that_a_stream_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine is made for a number of threads; both ends choose it on their own."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "1")  # so that each is put back
    for cores in (1, 2, 3, 8):
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: range(cores))
        made: list[int] = []
        monkeypatch.setattr(torch, "set_num_threads", made.append)
        monkeypatch.setattr("model.engines.runtime.build_engine", lambda *_, **how: Path("there"))
        compile_engine(["--cache", "unused"])
        tune_process()
        assert made == [int(os.environ["OMP_NUM_THREADS"])]


def test_compile_counts_the_classes_that_a_stream_counts(tmp_path: Path) -> None:
    """What a stream hands to the process that builds for it, read there, is the stream's own spec."""
    network = build_model(small_config(class_list="coco_and_object"), seed=0)
    path = tmp_path / "coco.safetensors"
    save_weights(network, path, name="coco", trained=False)
    parser = argparse.ArgumentParser()
    add_network_options(parser)
    every = [category.name for category in network.config.output_categories if category is not None]
    for names in (None, ["dog", "person"], every):
        outputs = spec_outputs(network.config, names)
        assert (outputs is None) == (names is every)
        spec = replace(SPEC, outputs=outputs)
        said = ["--classes", *class_names(network, spec)]
        for given in (said, [] if names is None else ["--classes", *names]):
            options = parser.parse_args(["--weights", str(path), "--num-kept", "4", *given])
            assert network_and_spec(options)[1].outputs == outputs


def test_without_a_compiler_auto_says_so_once_and_eager_goes_on(
    network: Network,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MSSTS_BUILD", "1")
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    monkeypatch.setattr(model.engines.runtime, "BUILD_AFTER_SECONDS", 0.0)
    runtime = Runtime(
        network, SPEC, precision="fp32", engine="auto", weights=weights, cache=EngineCache(tmp_path)
    )

    def given_up() -> bool:
        runtime.decode(window(runtime))
        return any("could not be built, eager goes on" in record.message for record in caplog.records)

    with caplog.at_level(logging.WARNING):
        wait_until(given_up, 100)
        for _ in range(3):
            window(runtime)
    assert runtime.engine == "eager"
    assert sum("eager goes on" in record.message for record in caplog.records) == 1
    assert not list(tmp_path.glob("*/key.json"))


def test_an_engine_asked_for_by_name_never_falls_back(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    with pytest.raises(EngineError, match=r"engine 'inductor' is not available: .*model\.engine=eager"):
        Runtime(network, SPEC, precision="fp32", engine="inductor", cache=EngineCache(tmp_path))
    with pytest.raises(ValueError, match="'turbo' is not one of auto, eager, inductor, tensorrt"):
        Runtime(network, SPEC, precision="fp32", engine="turbo")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"'tensorrt' is for GPUs: set model\.device=cuda"):
        Runtime(network, SPEC, precision="fp32", engine="tensorrt")


def damaged_copy(cache: EngineCache, network: Network, root: Path) -> EngineCache:
    """A cache whose engine is cut short."""
    copy = EngineCache(root)
    key = engine_key(prepared(network), SPEC, engine="inductor")
    folder = copy.folder(key)
    folder.mkdir(parents=True)
    for path in (cache.folder(key)).iterdir():
        content = path.read_bytes()
        (folder / path.name).write_bytes(content if path.suffix == ".json" else content[: len(content) // 2])
    return copy


def test_a_damaged_package_is_left_out_by_auto_and_an_error_by_name(
    network: Network, cache: EngineCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = damaged_copy(cache, network, tmp_path)
    with caplog.at_level(logging.WARNING):
        runtime = Runtime(network, SPEC, precision="fp32", engine="auto", cache=damaged)
        wait_until(lambda: serves_compiled(runtime) or len(caplog.records) > 0, 60)
    assert not serves_compiled(runtime)
    assert sum("left out, eager goes on" in record.message for record in caplog.records) == 1
    with pytest.raises(EngineError, match="is not available"):
        Runtime(network, SPEC, precision="fp32", engine="inductor", cache=damaged)


@pytest.mark.parametrize("factor", [1.01, float("nan")])
@pytest.mark.parametrize(("half", "output"), [(0, 0), (1, 0), (1, 2)], ids=["tokens", "logits", "masks"])
def test_an_engine_that_differs_from_eager_is_not_used(
    network: Network,
    cache: EngineCache,
    half: int,
    output: int,
    factor: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ready = prepared(network)
    right = [EncodeHalf(ready), DecodeHalf(ready, SPEC)]

    def wrong(*tensors: Tensor) -> tuple[Tensor, ...]:
        outputs = list(right[half](*tensors))
        outputs[output] = outputs[output] * factor
        return tuple(outputs)

    halves: list[Any] = list(right)
    halves[half] = wrong
    monkeypatch.setattr("model.engines.inductor.load_packages", lambda folder, **_: tuple(halves))
    with pytest.raises(EngineError, match="differs from eager by"):
        Runtime(network, SPEC, precision="fp32", engine="inductor", cache=cache)
    with caplog.at_level(logging.WARNING):
        runtime = Runtime(network, SPEC, precision="fp32", engine="auto", cache=cache)
        wait_until(lambda: serves_compiled(runtime) or len(caplog.records) > 0, 60)
    assert not serves_compiled(runtime)
    assert "differs from eager by" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "num_lost", "accepted"),
    [
        (torch.float32, 0, True),
        (torch.float32, 1, False),
        (torch.bfloat16, 0, True),
        (torch.bfloat16, 1, True),
        (torch.bfloat16, 2, False),
    ],
)
def test_an_engine_may_order_its_queries_otherwise_and_in_half_types_choose_one_in_four_anew(
    network: Network, dtype: torch.dtype, num_lost: int, accepted: bool
) -> None:
    ready = prepared(network)
    if dtype != torch.float32:
        ready.to_precision(dtype)
    encode, decode = EncodeHalf(ready), DecodeHalf(ready, SPEC)

    def reordered(*tensors: Tensor) -> tuple[Tensor, ...]:
        logits, boxes, masks, embeddings, kept = decode(*tensors)
        order = torch.tensor([2, 0, 3, 1])
        order[:num_lost] = order[-1]  # what should stand there is lost
        return logits[:, order], boxes[:, :, order], masks[:, order], embeddings[:, order], kept[:, order]

    error = engine_error(ready, {1: SPEC}, (encode, {1: reordered}), (encode, {1: decode}))
    assert (error <= TOLERANCE[dtype]) == accepted


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"device": "tpu"}, ValueError, "'tpu' is not one of auto, cpu, cuda"),
        ({"device": "mps"}, ValueError, "'mps' is not one of"),
        ({"precision": "int8"}, ValueError, "'int8' is not one of auto, fp32, bf16, fp16"),
        ({"precision": "fp16"}, EngineError, "'fp16' is for GPUs"),
        ({"device": "cuda:99"}, EngineError, "'cuda:99': torch sees "),
    ],
)
def test_devices_and_precisions_that_cannot_be_had_are_named(
    network: Network, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        Runtime(network, SPEC, engine="eager", **options)


def test_bf16_runs_where_the_cpu_has_it_and_is_refused_elsewhere(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(model.engines.device, "cpu_has_bf16", lambda: False)
    assert choose_dtype("auto", cpu) == torch.float32
    with pytest.raises(EngineError, match="no bf16 arithmetic"):
        Runtime(network, SPEC, engine="eager", precision="bf16")
    monkeypatch.setattr(model.engines.device, "cpu_has_bf16", lambda: True)
    assert choose_dtype("auto", cpu) == torch.bfloat16
    half, whole = (Runtime(network, SPEC, engine="eager", precision=name) for name in ("bf16", "fp32"))
    features, expected = window(half), window(whole)
    assert features.tokens.dtype == torch.bfloat16
    assert (features.tokens.float() - expected.tokens).norm() < 0.05 * expected.tokens.norm()
    output = half.decode(features)
    assert output.boxes.dtype == output.mask_logits.dtype == torch.float32
    assert bool(output.mask_logits.isfinite().all())


def test_a_compiled_engine_is_given_the_type_that_it_was_made_for(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package reads memory as its own type, whatever lies there."""
    monkeypatch.setattr(model.engines.device, "cpu_has_bf16", lambda: True)
    half = prepared(network).to_precision(torch.bfloat16)
    wanted = [[tensor.dtype for tensor in tensors] for tensors in example_inputs(half, SPEC)]
    given: list[list[torch.dtype]] = []

    def recorded(half: torch.nn.Module) -> Any:
        def run(*tensors: Tensor) -> Any:
            given.append([tensor.dtype for tensor in tensors])
            return half(*tensors)

        return run

    halves = recorded(EncodeHalf(half)), recorded(DecodeHalf(half, SPEC))
    monkeypatch.setattr("model.engines.inductor.load_packages", lambda folder, **_: halves)
    monkeypatch.setattr(model.engines.runtime, "build_engine", lambda *_, **__: tmp_path)
    runtime = Runtime(network, SPEC, engine="inductor", precision="bf16")
    given.clear()
    output = runtime.decode(window(runtime))
    assert given == [wanted[0], wanted[0], wanted[1]]
    eager = Runtime(network, SPEC, engine="eager", precision="bf16")
    assert torch.equal(output.mask_logits, eager.decode(window(eager)).mask_logits)


def test_the_key_holds_weights_spec_threads_and_precision(network: Network) -> None:
    key = engine_key(network, SPEC, engine="inductor")
    assert key == engine_key(network, SPEC, engine="inductor")
    other = live_model(network.config, seed=5)
    assert engine_key(other, SPEC, engine="inductor")["weights"] != key["weights"]
    fewer = replace(SPEC, outputs=(0,))
    assert engine_key(network, fewer, engine="inductor") != engine_key(network, SPEC, engine="inductor")
    longer = HalvesSpec(height=64, width=96, num_frames=3, num_kept=4, with_cues=False)
    cache = EngineCache(Path("unused"))
    assert cache.folder(engine_key(network, longer, engine="inductor")) != cache.folder(key)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert cache.folder(engine_key(network, SPEC, engine="inductor")) != cache.folder(key)
    finally:
        torch.set_num_threads(threads)


def test_a_build_that_fails_leaves_nothing_and_two_builds_at_once_are_one(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    key = {"engine": "test"}

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("the compiler died")

    with pytest.raises(RuntimeError, match="died"):
        cache.make(key, fail)
    assert cache.find(key) is None
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]

    built = []

    def build(folder: Path) -> None:
        time.sleep(0.2)
        built.append(folder)
        (folder / "engine").write_text("whole")

    threads = [threading.Thread(target=cache.make, args=(key, build)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = cache.find(key)
    assert found is not None
    assert (found / "engine").read_text() == "whole"
    assert len(built) == 1


def test_example_inputs_are_the_inputs_of_the_halves(network: Network) -> None:
    frame, features = example_inputs(network, SPEC)
    assert [tuple(tensor.shape) for tensor in frame] == [(1, 3, 64, 96)]
    assert features[0].shape[0] == 2
    again, _ = example_inputs(network, SPEC)
    assert torch.equal(frame[0], again[0])
