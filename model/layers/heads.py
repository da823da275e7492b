"""The mask branch and the dynamic mask head, and the MLP of the box and controller heads.

Source: SeqFormer and CondInst (model.md 1.7). What differs, by config: a narrower merged map, and a branch
that goes on to C2 so that logits come out at stride 4 without upsampling (ours, for small objects).

Dimensions: B windows, T frames, N = B·T, Q queries, C width, E width of the merged map, c mask channels,
h × w cells of the mask features.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.modules import Head, module_list, split_dim, without_autocast
from ops.box_masks import NUM_PLACES, box_masks, num_parameters
from ops.levels import Sizes, level_starts


class MLP(nn.Module):
    """Linear layers with relu between."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, *, num_layers: int, linear: type[nn.Linear] = nn.Linear
    ) -> None:
        super().__init__()
        widths = [inputs, *[inner] * (num_layers - 1), outputs]
        self.layers = module_list(linear(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        output: Tensor = self.layers[-1](x)
        return output


class MaskBranch(nn.Module):
    """The three finest encoder levels merged top-down into c channels, at stride 8 or, with C2, 4."""

    def __init__(self, config: ModelConfig, *, c2_channels: int) -> None:
        super().__init__()
        width = config.mask_dim or config.hidden_dim
        self.narrow = nn.Linear(config.hidden_dim, width) if width != config.hidden_dim else None
        self.lay3 = nn.Conv2d(width, width, 3, padding=1)
        self.lay4 = nn.Conv2d(width, width, 3, padding=1)
        self.dcn = nn.Conv2d(width, width, 3, padding=1)
        self.lay1 = nn.Conv2d(width, width // 4, 3, padding=1)
        self.lay2 = nn.Conv2d(width // 4, config.mask_channels, 3, padding=1)
        self.c2_proj = nn.Conv2d(c2_channels, width // 4, 1) if config.mask_source == "c2" else None
        self.stride = 4 if config.mask_source == "c2" else 8

    def prepare(self, c2: Tensor, c3: Tensor, images: Tensor, cues: Tensor | None) -> Tensor | None:
        """The part of C2 (N, channels, H/4, W/4) that the branch keeps, per frame; None if C2 is not used."""
        return None if self.c2_proj is None else self.c2_proj(c2)

    def forward(self, memory: Tensor, sizes: Sizes, c2: Tensor | None) -> Tensor:
        """memory (N, P, C), c2 from `prepare` → (N, c, h, w)."""
        starts = level_starts(sizes)
        tokens = memory[:, : starts[3]]
        if self.narrow is not None:
            tokens = self.narrow(tokens)
        x = _merged(self, tokens, sizes)
        x = F.relu(self.lay1(x), inplace=True)
        if c2 is not None:
            x = c2 + F.interpolate(x, size=c2.shape[-2:])
        return F.relu(self.lay2(x), inplace=True)


class PictureMaskBranch(nn.Module):
    """The same down to stride 4 with C2, C3, the picture itself and the cues, for sharp edges (ours).

    What depends on one frame alone is made once (`prepare`); its answer is not rectified.
    """

    stride = 4

    def __init__(self, config: ModelConfig, *, channels: tuple[int, int]) -> None:
        super().__init__()
        width = config.mask_dim or config.hidden_dim
        self.fine_width = fine = 3 * width // 4
        self.c2_proj, self.c3_proj = (nn.Conv2d(each, fine, 1) for each in channels)
        self.picture_proj = nn.Conv2d(3 * 16, fine, 1)
        self.fine = nn.Conv2d(fine, fine, 3, padding=1)
        self.narrow = nn.Linear(config.hidden_dim, width)
        self.lay3 = nn.Conv2d(width, width, 3, padding=1)
        self.lay4 = nn.Conv2d(width, width, 3, padding=1)
        self.dcn = nn.Conv2d(width, width, 3, padding=1)
        self.lay1 = nn.Conv2d(width, fine, 1)
        self.lay2 = nn.Conv2d(fine, fine, 3, padding=1)
        self.out = nn.Conv2d(fine, config.mask_channels, 1)

    def prepare(self, c2: Tensor, c3: Tensor, images: Tensor, cues: Tensor | None) -> Tensor:
        """Maps at strides 4 and 8, images (N, 3, H, W) and what the cues add at stride 4 → (N, F, h, w)."""
        x = self.c2_proj(c2) + self.picture_proj(F.pixel_unshuffle(images, 4))
        x = x + F.interpolate(self.c3_proj(c3), size=x.shape[-2:], mode="bilinear", align_corners=False)
        if cues is not None:
            x = x + cues
        prepared: Tensor = self.fine(F.relu(x, inplace=True))
        return prepared

    def forward(self, memory: Tensor, sizes: Sizes, c2: Tensor | None) -> Tensor:
        """memory (N, P, C), c2 from `prepare` → (N, c, h, w) at stride 4."""
        assert c2 is not None
        x = _merged(self, self.narrow(memory[:, : level_starts(sizes)[3]]), sizes)
        x = F.interpolate(self.lay1(x), size=c2.shape[-2:], mode="bilinear", align_corners=False)
        x = F.relu(self.lay2(F.relu(c2 + x, inplace=True)), inplace=True)
        output: Tensor = self.out(x)
        return output


def _merged(branch: MaskBranch | PictureMaskBranch, tokens: Tensor, sizes: Sizes) -> Tensor:
    """The three finest levels of tokens (N, P, E) merged top-down: (N, E, H/8, W/8)."""
    starts = level_starts(sizes)
    fine, middle, coarse = (
        split_dim(tokens[:, starts[level] : starts[level + 1]], 1, sizes[level]).permute(0, 3, 1, 2)
        for level in range(3)
    )  # (N, E, H_l, W_l)
    x = F.relu(branch.lay3(coarse), inplace=True)
    x = F.relu(branch.lay4(middle + F.interpolate(x, size=sizes[1])), inplace=True)
    return F.relu(branch.dcn(fine + F.interpolate(x, size=sizes[0])), inplace=True)


class DynamicMaskHead(nn.Module):
    """A 3-layer 1×1 convolution (c + 2 → c → c → 1) whose parameters an instance query writes.

    The two inputs before the mask features are (reference centre − cell centre) in pixels, x first. The
    parameters of a query are all weights, (out, in) row-major, then all biases. Everything is computed in the
    type of the controller's weights, under autocast too: no half type can count the pixels of a row.

    With `mask_coordinates: box` (ours) these inputs are four, places in the reference box (`ops.box_masks`):
    so an object has the same parameters near and far.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.channels = config.mask_channels
        self.scale = config.mask_coordinate_scale
        self.in_boxes = config.mask_coordinates == "box"
        c = self.channels
        self.num_places = NUM_PLACES if self.in_boxes else 2
        self.splits = num_parameters(c) if self.in_boxes else [c * (c + 2), c * c, c, c, c, 1]
        self.controller = MLP(
            config.hidden_dim, config.hidden_dim, sum(self.splits), num_layers=3, linear=Head
        )

    def forward(self, queries: Tensor, centres: Tensor, features: Tensor, *, stride: int) -> Tensor:
        """Mask logits (B, Q, T, h, w) of the given queries on the cells of the features.

        queries (B, Q, C); centres (B, T, Q, 2) in pixels, with `box` (B, T, Q, 4), widths and heights behind;
        features (B, T, c, h, w).
        """
        with without_autocast(queries.device):
            return self._masks(queries, centres, features, stride)

    def _masks(self, queries: Tensor, centres: Tensor, features: Tensor, stride: int) -> Tensor:
        features = features.to(self.controller.layers[0].weight.dtype)
        B, T, c, h, w = features.shape
        Q = queries.shape[1]
        parameters = self.controller(queries)
        if self.in_boxes:
            return box_masks(features, parameters, centres, stride)
        weight1, weight2, weight3, bias1, bias2, bias3 = parameters.split(self.splits, dim=-1)

        # weight·(centre − cell) = weight·centre − weight·cell: the first part is a bias, the second makes the
        # cell's place two more input planes, the same for all queries; so layer 1 is one product per frame.
        weight1 = split_dim(weight1, -1, (c, c + 2))
        of_place, of_features = weight1[..., :2] * self.scale, weight1[..., 2:]  # (B, Q, c, 2), (B, Q, c, c)
        bias = bias1[:, None] + torch.einsum("bqck,btqk->btqc", of_place, centres)  # (B, T, Q, c)
        places = self._place_planes(features, stride).expand(B, -1, -1)  # (B, 3, h·w)
        masks = []
        for frame in range(T):  # frame by frame, so that the hidden maps stay in the cache
            matrix = torch.cat((of_features, -of_place, bias[:, frame, :, :, None]), dim=-1).flatten(1, 2)
            planes = torch.cat((features[:, frame].flatten(2), places), dim=1)  # (B, c + 3, h·w)
            x = F.relu(torch.bmm(matrix, planes), inplace=True).view(B * Q, c, h * w)
            masks.append(self._rest(x, weight2, bias2, weight3, bias3).view(B, Q, h, w))
        return torch.stack(masks, dim=2)

    @staticmethod
    def _rest(x: Tensor, weight2: Tensor, bias2: Tensor, weight3: Tensor, bias3: Tensor) -> Tensor:
        """Layers 2 and 3 of n = B·Q masks: (n, c, h·w) → (n, 1, h·w)."""
        n, c, _ = x.shape
        x = torch.baddbmm(bias2.reshape(n, c, 1), weight2.reshape(n, c, c), x)
        return torch.baddbmm(bias3.reshape(n, 1, 1), weight3.reshape(n, 1, c), F.relu(x, inplace=True))

    @staticmethod
    def _place_planes(features: Tensor, stride: int) -> Tensor:
        """x, y (pixels, cell i at stride·i + stride/2) and one: (3, h·w)."""
        h, w = features.shape[-2:]
        y = torch.arange(h, device=features.device, dtype=features.dtype) * stride + stride // 2
        x = torch.arange(w, device=features.device, dtype=features.dtype) * stride + stride // 2
        places = torch.stack((x.expand(h, w), y[:, None].expand(h, w), torch.ones_like(x).expand(h, w)))
        return places.flatten(1)


def upsample_aligned(masks: Tensor) -> Tensor:
    """Twice the size by the aligned bilinear of CondInst: (N, Q, h, w) → (N, Q, 2h, 2w)."""
    h, w = masks.shape[-2:]
    x = F.pad(masks, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, size=(2 * h + 1, 2 * w + 1), mode="bilinear", align_corners=True)
    return F.pad(x, (1, 0, 1, 0), mode="replicate")[..., : 2 * h, : 2 * w]
