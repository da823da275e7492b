"""A trunk of cross-stage partial convolutions and the one-stage detector on it, as NanoDet-g has them.

Source: RangiLyu/nanodet (`nanodet-g`: CSPNet trunk without depth-wise convolutions, PAN neck with additions,
heads of a generalised focal loss, one per level and not shared); the layout was read from its published
graph and agrees with it numerically (tests/reference/csp_detector). What differs: images come normalised by
ImageNet's mean and std in RGB, as for every other trunk here (its own numbers are the same, in BGR).

Dimensions: N images, H × W pixels (multiples of 32), h × w cells of a level, P cells of strides 8, 16 and 32,
K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.modules import HeadConv, constant, module_list, precise, split_dim

SLOPE = 0.1
"""Of the leaky ReLU."""

STRIDES = (8, 16, 32)
NUM_CLASSES = 80
"""COCO's, in the order of their ids."""
NUM_BINS = 11
"""A side's distance to its cell's centre is the expectation over 0..10 strides."""
NECK_WIDTH = 128


class Conv(nn.Conv2d):
    """A convolution with bias (a batch norm was folded into it) and a leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), SLOPE, inplace=True)


class Stage(nn.Module):
    """h = a = enter(x); for each pair h = cat(second(first(h)), first(h)); out = cat(leave(h), a)."""

    def __init__(self, inputs: int, width: int, *, num_pairs: int, stride: int) -> None:
        super().__init__()
        self.enter = Conv(inputs, width, stride=stride)
        half = width // 2
        self.first = module_list(Conv(width, half) for _ in range(num_pairs))
        self.second = module_list(Conv(half, half) for _ in range(num_pairs))
        self.leave = Conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enter(x)
        h = a
        for first, second in zip(self.first, self.second, strict=True):
            b = first(h)
            h = torch.cat((second(b), b), dim=1)
        return torch.cat((self.leave(h), a), dim=1)


class CspTrunk(nn.Module):
    """Image (N, 3, H, W) → maps at strides 4, 8, 16, 32 of `channels` channels."""

    channels: ClassVar[tuple[int, int, int, int]] = (64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 32, stride=2)
        self.stages = module_list(
            Stage(inputs, width, num_pairs=num_pairs, stride=stride)
            for inputs, width, num_pairs, stride in (
                (32, 32, 1, 1),
                (64, 64, 2, 2),
                (128, 128, 2, 2),
                (256, 256, 3, 2),
            )
        )

    def forward(self, images: Tensor, cues: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cues are none of this trunk's: they join behind it (model.layers.cue_pyramid)."""
        x = F.max_pool2d(self.stem(images), 3, stride=2, padding=1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[0], maps[1], maps[2], maps[3]

    def fold_norms(self) -> None:
        """Nothing: the norms were folded before the weights were published."""


class DetectorNeck(nn.Module):
    """Maps at strides 8, 16, 32 → as many of 128 channels, each told of the others (top-down, bottom-up)."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = module_list(nn.Conv2d(channels, NECK_WIDTH, 1) for channels in CspTrunk.channels[1:])

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c8, c16, c32 = (reduce(x) for reduce, x in zip(self.reduce, (c3, c4, c5), strict=True))
        p16 = c16 + _resized(c32, c16)
        p8 = c8 + _resized(p16, c8)
        n16 = p16 + _resized(p8, p16)
        return p8, n16, c32 + _resized(n16, c32)


class DetectorHead(nn.Module):
    """One level's map → (N, K + 4·bins, h, w): class logits, then logits of left, top, right, bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv(NECK_WIDTH, NECK_WIDTH)
        self.predict = HeadConv(NECK_WIDTH, NUM_CLASSES + 4 * NUM_BINS, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.predict(self.conv(x))
        return output


@dataclass(frozen=True)
class Detections:
    """What every cell of strides 8, 16 and 32 says: logits (N, P, K) and boxes (N, P, 4) xyxy in 0..1, not
    clipped, both float32."""

    logits: Tensor
    boxes_xyxy: Tensor


class Detector(nn.Module):
    """Neck and heads on a `CspTrunk`."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = DetectorNeck()
        self.heads = module_list(DetectorHead() for _ in STRIDES)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[tuple[Tensor, ...], Detections]:
        """The neck's three maps, and what all cells say."""
        maps = self.neck(c3, c4, c5)
        height, width = c3.shape[-2] * STRIDES[0], c3.shape[-1] * STRIDES[0]
        logits, boxes = [], []
        for x, head, stride in zip(maps, self.heads, STRIDES, strict=True):
            answer = head(x)
            rows = answer.flatten(2).transpose(1, 2).to(precise(answer.dtype))  # (N, h·w, K + 4·bins)
            logits.append(rows[..., :NUM_CLASSES])
            boxes.append(_boxes(rows[..., NUM_CLASSES:], answer.shape[-2:], stride, (height, width)))
        return maps, Detections(torch.cat(logits, dim=1), torch.cat(boxes, dim=1))


def _boxes(
    distance_logits: Tensor, cells: tuple[int, ...] | torch.Size, stride: int, size: tuple[int, int]
) -> Tensor:
    """(N, h·w, 4·bins) → boxes (N, h·w, 4) xyxy in 0..1: a cell's centre less and plus its distances."""
    h, w = cells
    device, dtype = distance_logits.device, distance_logits.dtype
    bins = constant(tuple(float(place * stride) for place in range(NUM_BINS)), device, dtype)
    shares = split_dim(distance_logits, -1, (4, NUM_BINS)).softmax(dim=-1)
    left, top, right, bottom = (shares * bins).sum(dim=-1).unbind(-1)
    y = ((torch.arange(h, device=device, dtype=dtype) + 0.5) * stride)[:, None].expand(h, w).flatten()
    x = ((torch.arange(w, device=device, dtype=dtype) + 0.5) * stride).expand(h, w).flatten()
    height, width = size
    return torch.stack(
        ((x - left) / width, (y - top) / height, (x + right) / width, (y + bottom) / height), dim=-1
    )


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear with half-pixel centres, up or down, to the size of another map."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
