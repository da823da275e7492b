"""`vis::box_masks`: masks that small networks of the queries' own draw, each within its box.

A dynamic mask head (CondInst, arXiv 2003.05664) whose coordinates are places in a box (ours). Outside of the
box there is no mask, and on a CPU nothing is computed there: boxes cover a few percent of a picture.

Dimensions: B windows, T frames, Q queries, c channels, h × w cells, n numbers of a query's network.
"""

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.library import build_kernel, kernel_or_none

__all__ = ["BORDER", "NUM_PLACES", "OUTSIDE", "box_masks", "box_masks_portable", "num_parameters"]

BORDER = 1.15
"""Where a mask ends, in halves of its box's sides: in groups masks would run over into neighbours."""
OUTSIDE = -10.0
"""Logit beyond BORDER."""

NUM_PLACES = 4
"""Inputs besides the features: x, y and their squares, so that one layer can draw an ellipse."""

SOURCE = Path(__file__).parent / "kernels" / "box_masks.cpp"
_MAX_CHANNELS = 64
"""What the code has room for (`kMaxChannels`)."""

_library: Any = torch.library.Library("vis", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("box_masks(Tensor features, Tensor parameters, Tensor boxes, int stride) -> Tensor")


def num_parameters(channels: int) -> list[int]:
    """Numbers of a query's network: weights of its three layers (out, in) row-major, then their biases."""
    c = channels
    return [c * (c + NUM_PLACES), c * c, c, c, c, 1]


def box_masks(features: Tensor, parameters: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """Mask logits (B, Q, T, h, w) of queries that each write a network of 1×1 convolutions c + 4 → c → c → 1.

    features   (B, T, c, h, w), of the type of the parameters.
    parameters (B, Q, n), as `num_parameters` has them; the first layer's inputs are x, y, x², y², then the
               features. x and y are the cell's place: (centre of cell − centre of box) / half of its side,
               the half at least half a cell.
    boxes      (B, T, Q, 4) cxcywh in pixels, cell i's centre at (i + 0.5)·stride.

    Where |x| or |y| is above BORDER the logit is OUTSIDE. Differentiable; where no gradient is asked for, a
    CPU computes the cells in the boxes alone.
    Raises ValueError for shapes that contradict each other, naming both sides.
    """
    _check(features, parameters, boxes)
    if torch.is_grad_enabled() or features.device.type != "cpu":
        return box_masks_portable(features, parameters, boxes, stride)
    masks: Tensor = torch.ops.vis.box_masks(features, parameters, boxes, stride)
    return masks


def box_masks_portable(features: Tensor, parameters: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """`box_masks` on any device, differentiable: every cell is computed."""
    B, T, c, h, w = features.shape
    Q = parameters.shape[1]
    weight1, weight2, weight3, bias1, bias2, bias3 = (
        part.flatten(0, 1) for part in torch.split(parameters, num_parameters(c), dim=-1)
    )
    weight1 = weight1.reshape(B * Q, c, c + NUM_PLACES)
    of_place, of_features = weight1[..., :NUM_PLACES], weight1[..., NUM_PLACES:].reshape(B, Q * c, c)
    masks = []
    for frame in range(T):  # frame by frame, so that the hidden maps stay in the cache
        x = torch.bmm(of_features, features[:, frame].flatten(2)).view(B * Q, c, h, w)
        box = boxes[:, frame].flatten(0, 1)
        across, down = (_places(box, axis, count, stride) for axis, count in ((0, w), (1, h)))
        x = x + torch.baddbmm(bias1[..., None], of_place[..., 0::2], _with_squares(across))[:, :, None]
        x = F.relu(x + torch.bmm(of_place[..., 1::2], _with_squares(down))[..., None], inplace=True)
        x = torch.baddbmm(bias2[..., None], weight2.reshape(B * Q, c, c), x.flatten(2))
        x = torch.baddbmm(bias3[..., None], weight3[:, None], F.relu(x, inplace=True)).view(B * Q, h, w)
        beyond = (down.abs() > BORDER)[:, :, None] | (across.abs() > BORDER)[:, None]
        masks.append(x.masked_fill(beyond, OUTSIDE).view(B, Q, h, w))
    return torch.stack(masks, dim=2)


def _places(boxes: Tensor, axis: int, count: int, stride: int) -> Tensor:
    """Places of `count` columns (axis 0) or rows (1) in boxes (N, 4) cxcywh: (N, count)."""
    cells = torch.arange(count, device=boxes.device, dtype=boxes.dtype) * stride + stride / 2
    half = (boxes[:, 2 + axis, None] * 0.5).clamp(min=stride / 2)
    return (cells - boxes[:, axis, None]) / half


def _with_squares(places: Tensor) -> Tensor:
    """(N, cells) → (N, 2, cells), kept to what is within the border."""
    places = places.clamp(-BORDER, BORDER)
    return torch.stack((places, places.square()), dim=1)


class BoxMasksKernel:
    """The compiled library. A mask's bits depend on neither the other masks nor the number of threads."""

    def __init__(self, library: Path) -> None:
        """Raises OSError for a library that cannot be loaded."""
        self._library = ctypes.CDLL(str(library))

    def __call__(self, features: Tensor, parameters: Tensor, boxes: Tensor, stride: int) -> Tensor:
        B, T, c, h, w = features.shape
        Q = parameters.shape[1]
        result = torch.empty(B, Q, T, h, w)
        tensors = (result, features.contiguous(), parameters.contiguous(), boxes.contiguous())
        failed = self._library.box_masks_float(
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
            (ctypes.c_int64 * 6)(B, T, Q, c, h, w),
            (ctypes.c_float * 3)(stride, BORDER, OUTSIDE),
            ctypes.c_int(torch.get_num_threads()),
        )
        if failed:
            raise RuntimeError(f"the CPU kernel of box_masks has no room for {c} channels")
        return result


def load(folder: Path) -> BoxMasksKernel:
    """Build, load and compare with the portable form. Raises as `build_kernel`, and ArithmeticError."""
    kernel = BoxMasksKernel(build_kernel(SOURCE, folder))
    generator = torch.Generator().manual_seed(0)
    for c, h, w in ((16, 9, 13), (5, 6, 5)):
        features = torch.randn(2, 2, c, h, w, generator=generator)
        parameters = torch.randn(2, 3, sum(num_parameters(c)), generator=generator)
        boxes = torch.rand(2, 2, 3, 4, generator=generator) * 4.0 * w
        found = kernel(features, parameters, boxes, 4)
        wanted = box_masks_portable(features, parameters, boxes, 4)
        if not torch.allclose(found, wanted, rtol=1e-4, atol=1e-3):
            raise ArithmeticError(f"box_masks is off by up to {float((found - wanted).abs().max()):.3g}")
    return kernel


@lru_cache(maxsize=1)
def box_masks_kernel() -> BoxMasksKernel | None:
    """The CPU kernel; None, said once, where it is not available."""
    return kernel_or_none(load, operator="box_masks")


def _box_masks_cpu(features: Tensor, parameters: Tensor, boxes: Tensor, stride: int) -> Tensor:
    kernel = box_masks_kernel()
    usable = features.dtype == parameters.dtype == boxes.dtype == torch.float32
    if kernel is None or not usable or features.shape[2] > _MAX_CHANNELS:
        return box_masks_portable(features, parameters, boxes, stride)
    return kernel(features, parameters, boxes, stride)


def _fake(features: Tensor, parameters: Tensor, boxes: Tensor, stride: int) -> Tensor:
    B, T, _, h, w = features.shape
    return features.new_empty((B, parameters.shape[1], T, h, w))


_library.impl("box_masks", box_masks_portable, "CompositeExplicitAutograd")
_library.impl("box_masks", _box_masks_cpu, "CPU")
torch.library.register_fake("vis::box_masks", _fake, lib=_library)


def _check(features: Tensor, parameters: Tensor, boxes: Tensor) -> None:
    if features.dim() != 5 or parameters.dim() != 3 or boxes.dim() != 4:
        raise ValueError(
            "features, parameters and boxes must be (B, T, c, h, w), (B, Q, n) and (B, T, Q, 4), got "
            f"{tuple(features.shape)}, {tuple(parameters.shape)} and {tuple(boxes.shape)}"
        )
    B, T, c = features.shape[:3]
    Q = parameters.shape[1]
    wanted = ((B, Q, sum(num_parameters(c))), (B, T, Q, 4))
    if (tuple(parameters.shape), tuple(boxes.shape)) != wanted:
        raise ValueError(
            f"features of {B} windows, {T} frames, {c} channels and {Q} queries need parameters {wanted[0]} "
            f"and boxes {wanted[1]}, got {tuple(parameters.shape)} and {tuple(boxes.shape)}"
        )
