"""The network's configuration: one frozen dataclass, checked when it is made.

The code defaults are the CPU model that ships; a larger model lists only what differs. Nothing but the
standard library is imported here, so that a config can be read, checked and compared without torch.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from model.class_lists import Category, ClassListName, categories, output_categories, used_outputs
from model.errors import did_you_mean

BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "csp"]
Norm = Literal["frozen_bn", "bn", "gn"]
Variant = Literal[
    "baseline",
    "sequential_attention_1",
    "sequential_attention_2",
    "sequential_encoder_1",
    "sequential_encoder_2",
    "split",
]
Intra = Literal["none", "temporal", "spatiotemporal", "joint"]
MaskSource = Literal["level1", "c2", "picture"]
MaskCoordinates = Literal["pixels", "box"]
QuerySelectionName = Literal["learned", "encoder", "detector"]
Arithmetic = Literal["fp32", "bf16", "fp16"]
"""What a network computes in, but for coordinates and scores."""
Precision = Literal["auto", Arithmetic]
"""The same as it is asked for; auto: what the device is best at."""
EngineName = Literal["auto", "eager", "inductor", "tensorrt"]

CUE_PLANES: dict[str, int] = {"background": 1, "flow": 2}
"""Planes that each cue adds to the stem: the frame's difference to a running median; optical flow less the
camera's motion (x, y)."""

SHIPPED_WEIGHTS = "default"
"""What a stream's config calls the weights that ship with the package."""
FORMER_WEIGHTS = "resnet18"
"""What shipped before and still does: one class, `object`, a trunk with batch norms that `adapt` can fit."""

SIZE_MULTIPLE = 8
SIZE_RANGE = (64, 2048)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture, class list and fixed live size of a network.

    Raises ValueError or TypeError, naming the field and the allowed values, when made with a value that
    does not fit.
    """

    RUNTIME_FIELDS: ClassVar[tuple[str, ...]] = ("height", "width", "num_frames")

    backbone: BackboneName = "resnet18"
    """ResNet: basic blocks (18, 34) or bottlenecks (50, 101); csp: NanoDet-g's trunk (model.layers.csp), for
    sizes that are multiples of 32."""
    backbone_width: float = 0.5
    """Factor on every channel count of a ResNet; csp has one width."""
    norm: Norm = "bn"
    """A ResNet's norm: frozen_bn for published weights, bn or gn to train from scratch; csp has none."""
    cues: tuple[str, ...] = ("background", "flow")
    """Extra stem planes, zero-initialised: background, flow; computed from the stream (docs/model.md)."""

    hidden_dim: int = 96
    """C: width of the tokens; a multiple of 32 (GroupNorm) and of num_heads."""
    num_heads: int = 4
    """M: heads of the deformable attention and of the decoder's self-attention."""
    num_levels: int = 4
    """L: feature levels; C3, C4, C5 and stride-2 convolutions for the rest."""
    num_points: int = 2
    """K: sampling points per head and level."""
    ffn_dim: int = 96
    """Width of the feed-forward layers of encoder and decoder."""
    encoder_layers: int = 2
    """Deformable encoder layers."""
    decoder_layers: int = 3
    """Decoder layers."""
    num_queries: int = 50
    """Q: instance queries."""
    query_selection: QuerySelectionName = "encoder"
    """Where the first references come from: learned (the paper), encoder (the best cells of the window) or
    detector (the best boxes of a COCO detector on the csp trunk, and the best cells of what moves)."""
    num_proposals: int = 64
    """Boxes of the detector that are kept of each frame."""
    num_motion_queries: int = 14
    """Of the Q queries those that are left to the best cells, whatever they are; query_selection detector."""
    dropout: float = 0.1
    """Dropout in training, at every residual and inside every feed-forward layer."""

    variant: Variant = "split"
    """Where MS-STS attention stands in the encoder; split is in parallel."""
    intra: Intra = "temporal"
    """Intra-scale block: over time, over cells and time, jointly over everything, or none."""
    inter: bool = True
    """Inter-scale block: cells of two successive scales over all frames."""
    sts_dim: int = 16
    """d: inner width of MS-STS and of the decoder's temporal attention."""
    sts_heads: int = 2
    """Heads inside MS-STS and the decoder's temporal attention."""
    sts_layers: int | None = None
    """Layers of the MS-STS encoder of sequential_encoder_*; null: encoder_layers."""
    decoder_temporal_attention: bool = True
    """Attention over the T box queries of an instance."""

    mask_source: MaskSource = "c2"
    """Finest map of the mask branch: level1 (stride 8, upsampled), c2 (stride 4), or picture (stride 4: C2,
    C3 and the picture itself)."""
    mask_dim: int | None = 32
    """Width of the mask branch's merged map; null: hidden_dim."""
    mask_channels: int = 8
    """Mask feature channels read by the dynamic convolutions."""
    mask_coordinate_scale: float = 0.0625
    """Factor on the relative coordinates (pixels) of the dynamic mask head."""
    mask_coordinates: MaskCoordinates = "pixels"
    """What the dynamic mask head's relative coordinates are: pixels (the paper's) or shares of the reference
    box, with their squares."""

    class_list: ClassListName = "object"
    """Names of the classes."""
    num_outputs: int | None = None
    """K: outputs of the class head; null: one per class; more: index = category id."""

    height: int = 192
    """Height in pixels that live frames are fitted into; a multiple of 8."""
    width: int = 320
    """Width in pixels that live frames are fitted into; a multiple of 8."""
    num_frames: int = 3
    """T: frames of a window; 5 in the paper, 3 is what the weights that ship learnt from."""

    def __post_init__(self) -> None:
        hints = _field_types()
        for name, hint in hints.items():
            value = getattr(self, name)
            if not _fits(value, hint):
                raise TypeError(f"{name}: {value!r} is a {type(value).__name__}, expected {_spell(hint)}")
            allowed = _choices(hint)
            if allowed and value not in allowed:
                raise ValueError(f"{name}: {value!r} is not one of {', '.join(map(repr, allowed))}")
        self._check_ranges()
        self._check_widths()
        self._check_cues()
        self._check_parts()

    def _check_ranges(self) -> None:
        for name, most in _AT_MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                bound = "at least 1" if value < 1 else f"at most {most}"
                raise ValueError(f"{name}: {value} must be {bound}")
        if not 0.0 < self.backbone_width <= 4.0:
            raise ValueError(f"backbone_width: {self.backbone_width} must be above 0 and at most 4")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: {self.dropout} must be in [0, 1)")
        if not 0.0 < self.mask_coordinate_scale <= 16.0:
            raise ValueError(
                f"mask_coordinate_scale: {self.mask_coordinate_scale} must be above 0 and at most 16"
            )
        for name in ("height", "width"):
            value = getattr(self, name)
            low, high = SIZE_RANGE
            if value % SIZE_MULTIPLE or not low <= value <= high:
                raise ValueError(
                    f"{name}: {value} is not an allowed size; use a multiple of {SIZE_MULTIPLE} "
                    f"from {low} to {high}, such as {_nearest_size(value)}"
                )

    def _check_widths(self) -> None:
        if (64 * self.backbone_width) % 8:
            raise ValueError(f"backbone_width: {self.backbone_width} must make 64·width a multiple of 8")
        if self.hidden_dim % 32 or self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim: {self.hidden_dim} must be a multiple of 32 and of num_heads ({self.num_heads})"
            )
        if not 3 <= self.num_levels <= 8:
            raise ValueError(
                f"num_levels: {self.num_levels} must be at least 3 (the mask branch merges three levels) "
                "and at most 8"
            )
        if self.sts_dim % 4 or self.sts_dim % self.sts_heads:
            raise ValueError(
                f"sts_dim: {self.sts_dim} must be a multiple of 4 and of sts_heads ({self.sts_heads})"
            )
        if (self.mask_dim or self.hidden_dim) % 4:
            raise ValueError(f"mask_dim: {self.mask_dim} must be a multiple of 4")

    def _check_parts(self) -> None:
        """What goes together."""
        if self.query_selection == "detector":
            self._check_detector()
        if self.mask_coordinates == "box" and self.query_selection == "learned":
            raise ValueError(
                "mask_coordinates: 'box' needs first references with a size: query_selection 'encoder' or "
                "'detector', not 'learned'"
            )
        for name in ("height", "width") if self.backbone == "csp" else ():
            if getattr(self, name) % 32:
                raise ValueError(
                    f"{name}: {getattr(self, name)} must be a multiple of 32 for backbone 'csp', such as "
                    f"{_nearest_size(getattr(self, name), 32)}"
                )
        if self.variant != "baseline" and self.intra == "none" and not self.inter:
            raise ValueError(
                f"variant: {self.variant!r} has neither an intra nor an inter block; "
                "turn one on or use 'baseline'"
            )
        output_categories(self.class_list, self.outputs)

    def _check_detector(self) -> None:
        if self.backbone != "csp" or self.class_list != "coco_and_object":
            raise ValueError(
                "query_selection: 'detector' needs backbone 'csp' and class_list 'coco_and_object' (its "
                f"classes are COCO's), not {self.backbone!r} and {self.class_list!r}"
            )
        if not 1 <= self.num_motion_queries < self.num_queries:
            raise ValueError(
                f"num_motion_queries: {self.num_motion_queries} must be 1 to num_queries - 1 "
                f"({self.num_queries - 1})"
            )

    def _check_cues(self) -> None:
        for cue in self.cues:
            if cue not in CUE_PLANES:
                raise ValueError(f"cues: {cue!r} is not one of {', '.join(map(repr, CUE_PLANES))}")
        if len(set(self.cues)) != len(self.cues):
            raise ValueError(f"cues: {list(self.cues)} names a cue twice")

    @property
    def outputs(self) -> int:
        """K: outputs of the class head."""
        if self.num_outputs is not None:
            return self.num_outputs
        return len(categories(self.class_list))

    @property
    def num_cue_planes(self) -> int:
        """Planes that the cues add to the stem's three."""
        return sum(CUE_PLANES[cue] for cue in self.cues)

    @property
    def output_categories(self) -> tuple[Category | None, ...]:
        """Category of each of the K outputs, None where an output is unused."""
        return output_categories(self.class_list, self.outputs)

    @property
    def used_outputs(self) -> tuple[int, ...]:
        """Indices of the outputs that stand for a category."""
        return used_outputs(self.class_list, self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values (JSON, YAML) of every field; `from_dict` gives the same config back."""
        values = asdict(self)
        values["cues"] = list(self.cues)
        return values

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], *, base: ModelConfig | None = None) -> ModelConfig:
        """Config from plain values; what the mapping leaves out comes from `base` (the code defaults).

        Raises ValueError for an unknown key (with the closest known one) or a value that does not fit,
        TypeError for a value of a wrong type.
        """
        check_keys(mapping)
        values = dict(mapping)
        if isinstance(values.get("cues"), list):
            values["cues"] = tuple(values["cues"])
        for name, hint in _field_types().items():
            if hint is float and type(values.get(name)) is int:
                values[name] = float(values[name])
        return replace(base if base is not None else cls(), **values)


def check_keys(mapping: Mapping[str, Any]) -> None:
    """Raise ValueError if a key is no field of ModelConfig, naming the closest field and all of them."""
    names = [entry.name for entry in fields(ModelConfig)]
    for key in mapping:
        if key not in names:
            hint = did_you_mean(str(key), names)
            raise ValueError(f"unknown model key {key!r}: {hint and f'{hint} '}allowed: {', '.join(names)}")


def contradictions(stored: ModelConfig, wanted: Mapping[str, Any]) -> list[str]:
    """What `wanted` asks for that weights with config `stored` cannot be, one line per key.

    Weights decide the architecture; only `ModelConfig.RUNTIME_FIELDS` may differ. Raises as `from_dict`
    for keys or values that no config has.
    """
    try:
        merged = ModelConfig.from_dict(wanted, base=stored).to_dict()
    except ValueError:
        # What cannot go together with the weights' own values contradicts them first of all.
        own = stored.to_dict()
        check_keys(wanted)
        if all(own[key] == value for key, value in wanted.items() if key not in ModelConfig.RUNTIME_FIELDS):
            raise
        merged = {**own, **wanted}
    own = stored.to_dict()
    return [
        f"{key}: {merged[key]!r} was asked for, the weights have {own[key]!r}"
        for key in wanted
        if key not in ModelConfig.RUNTIME_FIELDS and merged[key] != own[key]
    ]


_AT_MOST: dict[str, int] = {
    "hidden_dim": 1024,
    "num_heads": 32,
    "num_points": 32,
    "ffn_dim": 8192,
    "encoder_layers": 24,
    "decoder_layers": 24,
    "num_queries": 2048,
    "num_proposals": 1024,
    "num_motion_queries": 1024,
    "sts_dim": 1024,
    "sts_heads": 32,
    "sts_layers": 24,
    "mask_dim": 1024,
    "mask_channels": 64,
    "num_outputs": 16384,
    "num_frames": 256,
}
"""Counts, from 1 on. Several times what published networks have, so that a slip does not eat all memory."""


def _field_types() -> dict[str, Any]:
    hints = get_type_hints(ModelConfig)
    return {entry.name: hints[entry.name] for entry in fields(ModelConfig)}


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a field; bool is not an int here."""
    if get_origin(hint) is Literal:
        return isinstance(value, str)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    return type(value) is hint


def _spell(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return "a list of strings"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else part.__name__ for part in get_args(hint))
    return str(hint.__name__)


def _nearest_size(value: int, multiple: int = SIZE_MULTIPLE) -> int:
    low, high = SIZE_RANGE
    return min(high, max(low, round(value / multiple) * multiple))
