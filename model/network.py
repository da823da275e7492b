"""The whole network: a clip in, class logits, boxes and mask logits of all queries out.

Source: model.md. What differs from SeqFormer's layout: the work is cut at the cache seam. `encode_frames`
does per frame what a frame needs once, `decode_window` does what depends on the T frames of a window, and
`network(clip)` is exactly the two in a row.

Dimensions: B windows, T frames, N = B·T frames, P positions of all levels, Q queries, C width, d inner width
of MS-STS, K outputs, R cue planes, H × W pixels, h × w mask cells (stride 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model.config import CUE_PLANES, ModelConfig
from model.layers.backbone import ResNet
from model.layers.csp import NECK_WIDTH, CspTrunk, Detector
from model.layers.cue_pyramid import CuePyramid
from model.layers.decoder import Decoder, ExtraQueries, LayerOutput, names_first
from model.layers.encoder import Encoder
from model.layers.heads import DynamicMaskHead, MaskBranch, PictureMaskBranch, upsample_aligned
from model.layers.initialise import PRIOR_BIAS, initialise
from model.layers.modules import (
    ChannelNorm,
    GroupNorm,
    Head,
    HeadConv,
    LayerNorm,
    constant,
    module_list,
    split_dim,
)
from model.layers.position import image_level_sizes, spatial_sine
from model.layers.proposals import frame_proposals
from model.layers.sts import expand_levels
from ops.constants import kept
from ops.levels import Sizes


@dataclass(frozen=True)
class FrameFeatures:
    """What is kept of N frames: everything that does not depend on the window they stand in.

    tokens: (N, P, C); narrow: (N, P, d) the first MS-STS module's input, None for the baseline;
    c2: (N, F, H/4, W/4) the mask branch's part of C2, None where it is not used; size: (H, W) in pixels;
    proposals: (N, R, 4 + K) the detector's best boxes and their class logits, None without a detector.
    """

    tokens: Tensor
    narrow: Tensor | None
    c2: Tensor | None
    size: tuple[int, int]
    proposals: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: int | slice) -> FrameFeatures:
        """One frame (kept as N = 1) or a range of frames, without a copy."""
        chosen = index if isinstance(index, slice) else slice(index, index + 1 or None)
        return replace(
            self,
            tokens=self.tokens[chosen],
            narrow=None if self.narrow is None else self.narrow[chosen],
            c2=None if self.c2 is None else self.c2[chosen],
            proposals=None if self.proposals is None else self.proposals[chosen],
        )

    @staticmethod
    def stack(frames: Sequence[FrameFeatures], *, out: FrameFeatures | None = None) -> FrameFeatures:
        """Several features in a row, one copy, into `out` where it is given; the same frame may stand more
        than once.

        Raises ValueError for an empty sequence or frames of different sizes.
        """
        if not frames:
            raise ValueError("no frames to stack")
        sizes = {features.size for features in frames}
        if len(sizes) > 1:
            raise ValueError(f"frames of different sizes cannot share a window: {sorted(sizes)}")

        def cat(tensors: list[Tensor | None], into: Tensor | None) -> Tensor | None:
            there = [tensor for tensor in tensors if tensor is not None]
            return torch.cat(there, out=into) if there else None

        tokens = torch.cat([each.tokens for each in frames], out=None if out is None else out.tokens)
        return FrameFeatures(
            tokens=tokens,
            narrow=cat([each.narrow for each in frames], None if out is None else out.narrow),
            c2=cat([each.c2 for each in frames], None if out is None else out.c2),
            size=frames[0].size,
            proposals=cat([each.proposals for each in frames], None if out is None else out.proposals),
        )


@dataclass(frozen=True)
class Output:
    """What the network says about B windows.

    logits: (B, Q, K) class logits, sigmoid per class; boxes: (B, T, Q, 4) cxcywh in 0..1 of the input;
    mask_logits: (B, Q, T, h, w) at stride 4; query_embeddings: (B, Q, C) instance queries.
    kept: None, or (B, k) indices of the kept queries, best first; all other fields then hold those k alone.
    """

    logits: Tensor
    boxes: Tensor
    mask_logits: Tensor
    query_embeddings: Tensor
    kept: Tensor | None = None


@dataclass(frozen=True)
class Decoded:
    """What the network computes before any mask; training takes its losses from here.

    layers: the decoder layers' outputs, first to last, or the last alone; memory: (B·T, P, C) encoder
    features, levels of `sizes` one after the other; mask_features: (B·T, c, h', w') at stride 4 or 8;
    size: (H, W) in pixels; proposals: those of the features.
    """

    layers: tuple[LayerOutput, ...]
    memory: Tensor
    sizes: Sizes
    mask_features: Tensor
    size: tuple[int, int]
    proposals: Tensor | None = None


class Network(nn.Module):
    """The network of a config; `config` is what it was built from, `metadata` what its weights file said.

    The parameters do not depend on `ModelConfig.RUNTIME_FIELDS`: any image size and any T can be run.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, str] = {}
        width = config.hidden_dim
        groups = min(32, width // 2)  # one channel alone on a map of one cell has no spread
        csp = config.backbone == "csp"
        self.backbone = CspTrunk() if csp else ResNet(config)
        self.detector = Detector() if config.query_selection == "detector" else None
        c2, c3, *_ = self.backbone.channels
        inputs = self.backbone.channels[1:] if self.detector is None else (NECK_WIDTH,) * 3

        def norm() -> nn.Module:
            return ChannelNorm(width) if csp else GroupNorm(groups, width)

        projections = [nn.Sequential(nn.Conv2d(channels, width, 1), norm()) for channels in inputs]
        for level in range(3, config.num_levels):
            channels = inputs[-1] if level == 3 else width
            projections.append(nn.Sequential(nn.Conv2d(channels, width, 3, stride=2, padding=1), norm()))
        self.input_proj = module_list(projections)
        self.level_embed = nn.Parameter(torch.zeros(config.num_levels, width))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.mask_branch: MaskBranch | PictureMaskBranch
        if config.mask_source == "picture":
            self.mask_branch = PictureMaskBranch(config, channels=(c2, c3))
        else:
            self.mask_branch = MaskBranch(config, c2_channels=c2)
        self.cue_pyramid = None
        if csp and config.cues:
            fine = self.mask_branch.fine_width if isinstance(self.mask_branch, PictureMaskBranch) else None
            self.cue_pyramid = CuePyramid(
                config.num_cue_planes, width=width, fine_width=fine, num_levels=config.num_levels
            )
        self.mask_head = DynamicMaskHead(config)

    @property
    def trained(self) -> bool:
        """Whether the weights come from a training run; False for random ones."""
        return self.metadata.get("trained") == "true"

    def to_precision(self, dtype: torch.dtype) -> Network:
        """Cast for inference in a half type, for good: all but what would lose its meaning in 8 bits.

        Norms, and what gives coordinates and scores (boxes, reference points, class logits, weights of
        frames, dynamic masks), keep their type. Batch norms must have been folded (`halves.prepared`).
        """
        for module in self.modules():
            if isinstance(module, LayerNorm | GroupNorm | Head | HeadConv):
                continue
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
        return self

    def norms_to_precision(self, dtype: torch.dtype) -> Network:
        """Cast the weights of norms too, after `to_precision`: on a GPU their kernels compute in float32
        whatever comes in, and the casts around them would be launches of their own."""
        for module in self.modules():
            if not isinstance(module, LayerNorm | GroupNorm):
                continue
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
        return self

    def forward(self, clip: Tensor, cues: Tensor | None = None) -> Output:
        """Every query's answer for whole windows.

        clip (B, T, 3, H, W) float, normalised by ImageNet's mean and std; cues (B, T, R, H, W) or None.
        Raises ValueError for another shape.
        """
        if clip.dim() != 5 or clip.shape[2] != 3:
            raise ValueError(f"clip has shape {tuple(clip.shape)}, expected (B, T, 3, H, W)")
        features = self.encode_frames(clip.flatten(0, 1), None if cues is None else cues.flatten(0, 1))
        return self.decode_window(features, num_windows=clip.shape[0])

    def encode_frames(self, images: Tensor, cues: Tensor | None = None) -> FrameFeatures:
        """What a frame needs once: backbone, projections, and the encoder up to where frames first meet.

        images (N, 3, H, W), cues (N, R, H, W) with zeros where a cue is not known, or None for no cue at all.
        On the CPU a frame encoded alone always gives the same bits; N frames at once may differ from it in
        the last bits, since libraries choose their kernels by batch size.
        Raises ValueError for another shape.
        """
        self._check_images(images, cues)
        height, width = images.shape[-2:]
        dtype = self.level_embed.dtype
        images = images.to(dtype).contiguous(memory_format=torch.channels_last)
        if cues is not None:
            cues = cues.to(dtype).contiguous(memory_format=torch.channels_last)
        sizes = image_level_sizes(height, width, self.config.num_levels)
        beside = None if self.cue_pyramid is None or cues is None else self.cue_pyramid(cues)
        c2, c3, *coarser = self.backbone(images, cues)
        maps: tuple[Tensor, ...] = (c3, *coarser)
        proposals: Tensor | None = None
        if self.detector is not None:
            maps, detections = self.detector(*maps)
            proposals = frame_proposals(detections, num_proposals=self.config.num_proposals)
        levels: list[Tensor] = []
        for level, project in enumerate(self.input_proj):
            source = maps[level] if level < 3 else (maps[-1] if level == 3 else levels[-1])
            levels.append(project(source))
        if beside is not None:
            levels = [x + cue for x, cue in zip(levels, beside[1:], strict=True)]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)  # (N, P, C)
        tokens, narrow = self.encoder.encode_frames(tokens, self._position(sizes, tokens), sizes)
        return FrameFeatures(
            tokens=tokens,
            narrow=narrow,
            c2=self.mask_branch.prepare(c2, c3, images, None if beside is None else beside[0]),
            size=(height, width),
            proposals=proposals,
        )

    def decode_window(
        self,
        features: FrameFeatures,
        *,
        num_windows: int = 1,
        num_kept: int | None = None,
        outputs: tuple[int, ...] | None = None,
    ) -> Output:
        """What depends on the window: the rest of the encoder, the decoder's last layer and the masks.

        features of num_windows × T frames, window by window. With num_kept only that many queries (at most Q)
        are answered for: those with the best score of the class outputs `outputs` (None: of all classes that
        exist), best first; masks are computed for them alone.
        Raises ValueError if the frames do not divide into windows or num_kept is below 1.
        """
        if num_kept is not None and num_kept < 1:
            raise ValueError(f"num_kept={num_kept} must be at least 1")
        decoded = self.decode_layers(features, num_windows=num_windows, all_layers=False)
        last = decoded.layers[-1]
        if self.detector is not None:
            last = names_first(last)
        kept = None
        if num_kept is not None:
            kept = self._best(last.logits, num_kept, outputs)
            last = _choose(last, kept)
        return Output(
            logits=last.logits,
            boxes=last.boxes,
            mask_logits=self.masks(last.queries, last.centres, decoded),
            query_embeddings=last.queries,
            kept=kept,
        )

    def decode_layers(
        self,
        features: FrameFeatures,
        *,
        num_windows: int = 1,
        all_layers: bool = True,
        extra: ExtraQueries | None = None,
    ) -> Decoded:
        """`decode_window` before the choice of queries and the masks, for every decoder layer.

        extra: queries that training adds; their answers stand after those of the Q.

        Raises ValueError if the frames do not divide into windows.
        """
        encoded = self.encode_window(features, num_windows=num_windows)
        T = len(features) // num_windows
        layers = self.decoder(
            encoded.memory,
            encoded.sizes,
            num_frames=T,
            all_layers=all_layers,
            extra=extra,
            proposals=encoded.proposals,
        )
        return replace(encoded, layers=tuple(layers))

    def encode_window(self, features: FrameFeatures, *, num_windows: int = 1) -> Decoded:
        """The rest of the encoder and the mask branch; `layers` is empty.

        Raises ValueError if the frames do not divide into windows.
        """
        if num_windows < 1 or len(features) == 0 or len(features) % num_windows:
            raise ValueError(f"{len(features)} frames do not divide into {num_windows} windows")
        T = len(features) // num_windows
        sizes = image_level_sizes(*features.size, self.config.num_levels)
        position = self._position(sizes, features.tokens)
        memory = self.encoder.encode_window(features.tokens, features.narrow, position, sizes, num_frames=T)
        mask_features = self.mask_branch(memory, sizes, features.c2)
        return Decoded((), memory, sizes, mask_features, features.size, features.proposals)

    def masks(self, queries: Tensor, centres: Tensor, decoded: Decoded) -> Tensor:
        """Mask logits (B, Q, T, h, w) at stride 4 of the given queries.

        queries (B, Q, C) and centres (B, T, Q, 2 or 4) in 0..1, as in LayerOutput; any choice of queries.
        """
        T = centres.shape[1]
        height, width = decoded.size
        sides = (float(width), float(height)) * (centres.shape[-1] // 2)
        pixels = centres * constant(sides, centres.device, centres.dtype)
        stride = self.mask_branch.stride
        features = split_dim(decoded.mask_features, 0, (-1, T))
        logits: Tensor = self.mask_head(queries, pixels, features, stride=stride)
        if stride == 4:
            return logits
        return split_dim(upsample_aligned(logits.flatten(0, 1)), 0, (-1, logits.shape[1]))

    def _best(self, logits: Tensor, num_kept: int, outputs: tuple[int, ...] | None) -> Tensor:
        """Indices (B, k) of the queries with the best score of an output that counts, best first."""
        used = self.config.used_outputs if outputs is None else outputs
        if len(used) < logits.shape[-1]:
            logits = logits.index_select(-1, _indices(used, logits.device))
        return logits.amax(dim=-1).topk(min(num_kept, logits.shape[1]), dim=1).indices

    def _position(self, sizes: Sizes, like: Tensor) -> Tensor:
        """Sine of the place plus the level's embedding, (P, C)."""
        sine = spatial_sine(sizes, self.config.hidden_dim, like.device, like.dtype)
        return sine + expand_levels(self.level_embed, sizes)

    def _check_images(self, images: Tensor, cues: Tensor | None) -> None:
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images have shape {tuple(images.shape)}, expected (N, 3, H, W)")
        if self.config.backbone == "csp" and (images.shape[2] % 32 or images.shape[3] % 32):
            raise ValueError(f"images have shape {tuple(images.shape)}; backbone 'csp' needs sides of 32·n")
        if not images.is_floating_point():
            raise ValueError(
                f"images are {images.dtype}, expected floats normalised by ImageNet's mean and std"
            )
        if cues is None:
            return
        planes = self.config.num_cue_planes
        expected = (images.shape[0], planes, *images.shape[2:])
        if not planes or tuple(cues.shape) != expected:
            wanted = str(expected) if planes else "None: the config has no cues"
            raise ValueError(f"cues have shape {tuple(cues.shape)}, expected {wanted}")


@kept
def _indices(used: tuple[int, ...], device: torch.device) -> Tensor:
    """Indices as a tensor."""
    return torch.tensor(used)


def _choose(output: LayerOutput, kept: Tensor) -> LayerOutput:
    """A layer's output for the chosen queries, kept (B, k)."""
    T = output.boxes.shape[1]

    def of_query(x: Tensor) -> Tensor:
        return x.gather(1, kept[..., None].expand(-1, -1, x.shape[-1]))

    def of_frame(x: Tensor) -> Tensor:
        return x.gather(2, kept[:, None, :, None].expand(-1, T, -1, x.shape[-1]))

    return LayerOutput(
        queries=of_query(output.queries),
        logits=of_query(output.logits),
        boxes=of_frame(output.boxes),
        centres=of_frame(output.centres),
    )


def empty_network(config: ModelConfig) -> Network:
    """A network in eval mode whose parameters hold nothing yet, to be filled at once."""
    with torch.device("meta"):
        network = Network(config)
    # Convolution weights in the images' memory format: reordering them takes a third of the trunk's time.
    network.to_empty(device="cpu").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def with_cues(network: Network, cues: Sequence[str]) -> Network:
    """The network with more cues: the same results until the new planes' weights, zeros, are trained.

    Raises ValueError where a cue that it has is missing from `cues`.
    """
    missing = [cue for cue in network.config.cues if cue not in cues]
    if missing:
        raise ValueError(f"cues {list(cues)} lack {missing[0]!r}, which the network reads")
    wider = build_model(replace(network.config, cues=tuple(cues)), seed=0)
    tensors, place = network.state_dict(), 0
    if network.cue_pyramid is None and wider.cue_pyramid is not None:  # its answers start as nothing
        wider.load_state_dict({**wider.state_dict(), **tensors})
        wider.metadata = dict(network.metadata)
        return wider
    name = "cue_pyramid.stem.weight" if wider.cue_pyramid is not None else "backbone.cue_conv.weight"
    known = dict(
        zip(network.config.cues, _split_planes(tensors.pop(name, None), network.config.cues), strict=True)
    )
    weight = torch.zeros_like(wider.get_parameter(name))
    for cue in cues:
        if cue in known:
            weight[:, place : place + CUE_PLANES[cue]] = known[cue]
        place += CUE_PLANES[cue]
    wider.load_state_dict({**tensors, name: weight})
    wider.metadata = dict(network.metadata)
    return wider


def _split_planes(weight: Tensor | None, cues: Sequence[str]) -> tuple[Tensor, ...]:
    """The stem's weights (channels, R, 7, 7) of each cue."""
    return () if weight is None else torch.split(weight, [CUE_PLANES[cue] for cue in cues], dim=1)


def build_model(config: ModelConfig, *, seed: int | None = None, class_bias: float = PRIOR_BIAS) -> Network:
    """A network of random weights in eval mode.

    The same seed gives the same weights and the global random state is left alone; without a seed they are
    different each time. class_bias starts the class logits: the default for training (every score at 1 %); 0
    lets an untrained network's candidates pass score thresholds.
    """
    network = empty_network(config)
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    initialise(network, generator=generator, class_bias=class_bias)
    return network
