"""ResNet-18, -34, -50 and -101 with a width factor and a choice of norm.

Source: He et al., "Deep Residual Learning", in the form of torchvision (same parameter names, stride on the
3×3 convolution of a bottleneck), whose published weights therefore fit. What differs: the norm is a choice
(frozen for published weights; batch or group norm to train from scratch), and cue planes may join the image
at the stem (ours).

Dimensions: N images, H × W pixels, R cue planes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.modules import GroupNorm

logger = logging.getLogger(__name__)

BLOCKS: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}

EXPANSION = {"basic": 1, "bottleneck": 4}


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine parameters are constants (buffers); eps 1e-5 inside the root."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(num_channels))
        self.register_buffer("bias", torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-5)


def _group_norm(num_channels: int) -> nn.Module:
    # Groups of at least 8 channels: a narrow net's 32 groups would be one or two channels each.
    return GroupNorm(min(32, num_channels // 8), num_channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "frozen_bn": FrozenBatchNorm2d,
    "bn": nn.BatchNorm2d,
    "gn": _group_norm,
}


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, inputs: int, channels: int, *, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, channels, 3, stride)
        self.bn1 = norm(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = norm(channels)
        self.downsample = _shortcut(inputs, channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = convolved(self.conv1, self.bn1, x)
        return convolved(self.conv2, self.bn2, y, x if self.downsample is None else self.downsample(x))


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride) and 1×1 convolution with four times the channels, and a shortcut."""

    def __init__(self, inputs: int, channels: int, *, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        outputs = channels * EXPANSION["bottleneck"]
        self.conv1 = _conv(inputs, channels, 1)
        self.bn1 = norm(channels)
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = norm(channels)
        self.conv3 = _conv(channels, outputs, 1)
        self.bn3 = norm(outputs)
        self.downsample = _shortcut(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = convolved(self.conv1, self.bn1, x)
        y = convolved(self.conv2, self.bn2, y)
        return convolved(self.conv3, self.bn3, y, x if self.downsample is None else self.downsample(x))


def convolved(conv: nn.Conv2d, norm: nn.Module, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """relu(norm(conv(x)) + shortcut); in one launch on a GPU where cuDNN can, norms are folded and nothing is
    learnt."""
    if x.is_cuda and isinstance(norm, nn.Identity) and fuses(x):
        rest: tuple[Any, ...] = (conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        if shortcut is None:
            return torch.cudnn_convolution_relu(x, conv.weight, *rest)
        return torch.cudnn_convolution_add_relu(x, conv.weight, shortcut, 1.0, *rest)
    y: Tensor = norm(conv(x))
    if shortcut is not None:
        y += shortcut
    return F.relu(y, inplace=True)


def fuses(x: Tensor) -> bool:
    """Whether `convolved` may take cuDNN's fused form: not for gradients, compilers and exports."""
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and fused_form_works(x.device, x.dtype)
    )


@cache
def fused_form_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether cuDNN's fused convolutions run on a device and agree with the plain ones; asked once."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((1, 16, 9, 13), (16, 16, 3, 3)))
    x, weight = (each.to(device, dtype).contiguous(memory_format=torch.channels_last) for each in (x, weight))
    bias, rest = torch.ones(16, device=device, dtype=dtype), ((1, 1), (1, 1), (1, 1), 1)
    try:
        got = (
            torch.cudnn_convolution_relu(x, weight, bias, *rest),
            torch.cudnn_convolution_add_relu(x, weight, x, 1.0, bias, *rest),
        )
    except RuntimeError as exc:
        logger.info("%s: convolutions are not fused: %s", device, str(exc).splitlines()[0])
        return False
    plain = F.conv2d(x, weight, bias, padding=1)
    wanted = (plain.relu(), (plain + x).relu())
    error = max(float((one - other).abs().max()) for one, other in zip(got, wanted, strict=True))
    limit = 2e-2 * float(wanted[1].abs().max())
    if error > limit:
        logger.warning("%s: convolutions are not fused: they differ by %.1e from plain ones", device, error)
    return error <= limit


def _shortcut(
    inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]
) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), norm(outputs))


def _fold(parent: nn.Module, conv_name: str, norm_name: str) -> Tensor:
    """Fold a batch norm into its convolution; the scale of each output (1 where there is nothing to fold)."""
    conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    if not isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
        return torch.ones_like(conv.weight[:, 0, 0, 0])
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + getattr(norm, "eps", 1e-5))
    conv.weight.mul_(scale[:, None, None, None])
    conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
    setattr(parent, norm_name, nn.Identity())
    return scale


class ResNet(nn.Module):
    """Image (N, 3, H, W) → C2, C3, C4, C5 at strides 4, 8, 16, 32.

    `channels` holds the channel counts of the four maps. Cue planes (N, R, H, W) add to the stem's result
    through weights of their own that start at zero; a cue that is not known (yet) is zeros or None.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        kind, depths = BLOCKS[config.backbone]
        block = {"basic": BasicBlock, "bottleneck": Bottleneck}[kind]
        norm = NORMS[config.norm]
        base = int(64 * config.backbone_width)
        self.num_cue_planes = config.num_cue_planes
        self.conv1 = nn.Conv2d(3, base, 7, stride=2, padding=3, bias=False)
        if self.num_cue_planes:
            self.cue_conv = nn.Conv2d(self.num_cue_planes, base, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(base)

        stages, inputs, widths = [], base, []
        for stage, depth in enumerate(depths):
            channels = base * 2**stage
            blocks: list[nn.Module] = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(inputs, channels, stride=stride, norm=norm))
                inputs = channels * EXPANSION[kind]
            stages.append(nn.Sequential(*blocks))
            widths.append(inputs)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels: tuple[int, ...] = tuple(widths)

    @torch.no_grad()
    def fold_norms(self) -> None:
        """Put what batch norms do in eval mode into the convolutions before them, for good.

        The same results up to rounding, without a pass over every map. Group norms stay.
        """
        for module in self.modules():
            if module is self and self.num_cue_planes:
                scale = _fold(self, "conv1", "bn1")
                self.cue_conv.weight.mul_(scale[:, None, None, None])
            elif isinstance(module, ResNet | BasicBlock | Bottleneck):
                for index in (1, 2, 3):
                    if hasattr(module, f"bn{index}"):
                        _fold(module, f"conv{index}", f"bn{index}")
            elif isinstance(module, nn.Sequential) and isinstance(module[0], nn.Conv2d):
                _fold(module, "0", "1")

    def forward(self, images: Tensor, cues: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if cues is None:
            x = self.conv1(images)
        else:
            # One convolution over all planes: a second pass over the largest map would cost more.
            weight = torch.cat((self.conv1.weight, self.cue_conv.weight), dim=1)
            planes = torch.cat((images, cues), dim=1).contiguous(memory_format=torch.channels_last)
            x = F.conv2d(planes, weight, self.conv1.bias, stride=2, padding=3)
        x = F.relu(self.bn1(x), inplace=True)
        c2 = self.layer1(F.max_pool2d(x, 3, stride=2, padding=1))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)
