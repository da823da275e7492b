"""How many kernels a frame and a window ask of a GPU, counted on a trace (docs/runtime.md has the table)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from benchmarks.gpu_network import R50
from support.capture import decode_call, encode_call, fake_cuda, fake_network
from support.launches import count_launches

from model.checkpoint.weights_file import load_weights, shipped_weights
from model.config import ModelConfig

PAGE = Path(__file__).parents[3] / "docs" / "runtime.md"


def counts(config: ModelConfig) -> tuple[int, int]:
    """Launches of a frame's encode and of a window's decode in half precision."""
    with fake_cuda():
        network = fake_network(config, torch.float16)
        encode = encode_call(network, num_frames=1, with_cues=bool(config.cues))
        decode = decode_call(network, num_frames=config.num_frames, num_windows=1)
        return count_launches(encode).total, count_launches(decode).total


def test_the_papers_network_stays_within_the_target() -> None:
    frame, window = counts(R50)
    assert frame <= 160
    assert window <= 1000


@pytest.mark.parametrize(("name", "config"), [("R50", R50), ("default", None)])
def test_the_page_tells_what_is_counted(name: str, config: ModelConfig | None) -> None:
    frame, window = counts(config or load_weights(shipped_weights()).config)
    told = re.search(rf"^\| {name}[^|]*\| (\d+) \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert told is not None, f"docs/runtime.md has no row on {name}"
    assert (int(told[1]), int(told[2])) == (frame, window)


def test_what_is_counted_and_what_is_not() -> None:
    with fake_cuda():
        x = torch.empty(4, 6, device="cuda")
        weight, bias = torch.empty(8, 6, device="cuda"), torch.empty(8, device="cuda")
        picture, kernel = torch.empty(1, 3, 8, 8, device="cuda"), torch.empty(5, 3, 3, 3, device="cuda")
        for call, expected in (
            (lambda: x.view(2, 12).t()[1:], 0),
            (lambda: torch.empty_like(x), 0),
            (lambda: x + 1, 1),
            (lambda: x.half(), 1),
            (lambda: torch.nn.functional.linear(x, weight, bias), 1),
            (lambda: torch.conv2d(picture, kernel), 1),
            (lambda: torch.conv2d(picture, kernel, bias[:5]), 2),
            (lambda: x.softmax(-1).sum(), 2),
        ):
            assert count_launches(call).total == expected
        query = torch.empty(1, 2, 5, 4, device="cuda")
        attend = torch.nn.functional.scaled_dot_product_attention
        assert count_launches(lambda: attend(query, query, query)).total == 1
