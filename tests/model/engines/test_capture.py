"""Both halves can be captured into a CUDA graph: traced with fake CUDA tensors, they leave the host alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from support.capture import DEVICE, decode_call, encode_call, fake_cuda, fake_network, host_operations
from support.small_models import small_config
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from model.checkpoint.weights_file import load_weights, shipped_weights
from model.config import Intra, ModelConfig, Variant
from model.network import Network
from ops.arguments import DeformAttnArguments
from ops.bag import deform_attn_bag

R50 = Path(__file__).parents[3] / "configs" / "r50.yaml"
CONFIGS = {
    "former": ModelConfig(),
    "shipped": load_weights(shipped_weights()).config,
    "r50": ModelConfig.from_dict(yaml.safe_load(R50.read_text())["model"]["network"]),
}
"""The networks that are captured; another is one line here."""


def cases_of_encode() -> list[Any]:
    return [
        pytest.param(name, num_frames, with_cues, id=f"{name}-{num_frames}{'-cues' if with_cues else ''}")
        for name, config in CONFIGS.items()
        for num_frames in (1, 8)
        for with_cues in ((False, True) if config.cues else (False,))
    ]


@pytest.fixture(scope="module")
def kept_networks() -> tuple[FakeTensorMode, dict[Any, Network]]:
    return FakeTensorMode(), {}


@pytest.fixture
def network_of(
    kept_networks: tuple[FakeTensorMode, dict[Any, Network]],
) -> Iterator[Callable[..., Network]]:
    """A fake network of CONFIGS by name and dtype, made once; the test is within `fake_cuda`."""
    mode, networks = kept_networks

    def network(name: str, dtype: torch.dtype = torch.float32) -> Network:
        if (name, dtype) not in networks:
            networks[name, dtype] = fake_network(CONFIGS[name], dtype)
        return networks[name, dtype]

    with fake_cuda(mode):
        yield network


@pytest.mark.parametrize(("name", "num_frames", "with_cues"), cases_of_encode())
def test_encode_leaves_the_host_alone(
    network_of: Callable[..., Network], name: str, num_frames: int, with_cues: bool
) -> None:
    call = encode_call(network_of(name), num_frames=num_frames, with_cues=with_cues)
    assert host_operations(call) == []


@pytest.mark.parametrize("num_windows", [1, 8])
@pytest.mark.parametrize("num_frames", [1, 3, 5])
@pytest.mark.parametrize("name", CONFIGS)
def test_decode_leaves_the_host_alone(
    network_of: Callable[..., Network], name: str, num_frames: int, num_windows: int
) -> None:
    call = decode_call(network_of(name), num_frames=num_frames, num_windows=num_windows)
    assert host_operations(call) == []


@pytest.mark.parametrize("name", CONFIGS)
def test_half_networks_leave_the_host_alone(network_of: Callable[..., Network], name: str) -> None:
    network = network_of(name, torch.bfloat16)
    assert host_operations(encode_call(network, num_frames=1, with_cues=bool(network.config.cues))) == []
    assert host_operations(decode_call(network, num_frames=3, num_windows=1)) == []


@pytest.mark.parametrize(
    "changes",
    [{"variant": variant} for variant in get_args(Variant)] + [{"intra": intra} for intra in get_args(Intra)],
    ids=lambda changes: "-".join(changes.values()),
)
def test_every_variant_leaves_the_host_alone(changes: dict[str, Any]) -> None:
    config = small_config(**changes, height=72, width=104)  # levels with odd borders
    with fake_cuda():
        network = fake_network(config)
        assert host_operations(encode_call(network, num_frames=1, with_cues=True)) == []
        assert host_operations(decode_call(network, num_frames=2, num_windows=2)) == []


@pytest.mark.parametrize("reference", [(2,), (4,), (5, 2)], ids=["2-d", "4-d", "a level each"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_portable_attention_leaves_the_host_alone(reference: tuple[int, ...], dtype: torch.dtype) -> None:
    """It runs on a GPU where the kernel cannot. The last level has a single pixel."""
    with fake_cuda():
        value = torch.empty(2, 8 * 9 + 4 * 5 + 2 * 3 + 2 + 1, 4, 8, dtype=dtype, device=DEVICE)
        sampling = torch.empty(2, 7, 3 * 4 * 5 * 2, dtype=dtype, device=DEVICE)
        points = torch.empty(2, 7, *reference, device=DEVICE)
        arguments = DeformAttnArguments(value, sampling, points, 8, 9, 5, 2)
        assert host_operations(lambda: deform_attn_bag(arguments)) == []


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.tensor(2.0, device=x.device),
        lambda x: x + torch.ones(2).to(x.device),
        lambda x: x.mul_(torch.tensor(2.0)),
        lambda x: x[..., [0, 1]],
        lambda x: x.cpu(),
    ],
    ids=["new_tensor", "tensor", "upload", "host scalar", "list of indices", "download"],
)
def test_what_touches_the_host_is_seen(fault: Callable[[Tensor], object]) -> None:
    with fake_cuda():
        x = torch.empty(2, 2, device=DEVICE)
        found = host_operations(lambda: fault(x))
    assert found
    assert all("at tests/model/engines/test_capture.py:" in each for each in found)


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: float(x.max()),
        lambda x: x[0].tolist(),
        lambda x: 1 if (x > 0).any() else 2,
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.repeat_interleave((x[0] > 0).long(), dim=0),
    ],
    ids=["value", "list", "branch", "nonzero", "choice by a mask", "repeats"],
)
def test_what_depends_on_data_is_refused(fault: Callable[[Tensor], object]) -> None:
    with fake_cuda():
        x = torch.empty(2, 2, device=DEVICE)
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            host_operations(lambda: fault(x))
