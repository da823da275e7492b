"""What the cues add to the tokens and the mask features of a trunk that takes none at its stem.

Source: ours. A frozen trunk must see pictures as it learnt them; cues come next to it, at every level,
through maps that start at zero. Nothing here has a bias: cues of zeros add nothing.

Dimensions: N frames, R cue planes, H × W pixels, C width of the tokens, F width of the mask features.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.modules import module_list

WIDTH = 24


def _conv(inputs: int, *, kernel: int = 3, stride: int = 2) -> nn.Conv2d:
    return nn.Conv2d(inputs, WIDTH, kernel, stride=stride, padding=kernel // 2, bias=False)


class CuePyramid(nn.Module):
    """Cue planes (N, R, H, W) → what they add at strides 4 (F channels), 8, 16, 32, … (C channels).

    fine_width: F; None where the mask features take none.
    """

    def __init__(self, num_planes: int, *, width: int, fine_width: int | None, num_levels: int) -> None:
        super().__init__()
        self.stem = _conv(num_planes, kernel=7, stride=4)
        self.down = module_list(_conv(WIDTH) for _ in range(num_levels))
        self.out = module_list(
            nn.Conv2d(WIDTH, outputs, 1, bias=False) for outputs in (fine_width or 1, *[width] * num_levels)
        )

    def forward(self, cues: Tensor) -> list[Tensor]:
        x = F.relu(self.stem(cues), inplace=True)
        found = [self.out[0](x)]
        for down, out in zip(self.down, self.out[1:], strict=True):
            x = F.relu(down(x), inplace=True)
            found.append(out(x))
        return found
