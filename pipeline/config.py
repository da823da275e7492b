"""The configuration of a stream: frozen, checked when made, an error names file and dotted key.

Defaults stand here, once; `configs/default.yaml` spells them all out and a test keeps the two equal. Other
configs list only what differs. Order of precedence: defaults, the file, `--set`, command-line flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from model.config import FORMER_WEIGHTS, SHIPPED_WEIGHTS, EngineName, ModelConfig, Precision
from pipeline.types import check_source_id


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys are errors, no silent conversion of types."""

    model_config = ConfigDict(
        allow_inf_nan=False,
        frozen=True,
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class SourceConfig(Section):
    """Where frames come from. A plain string or a map of name → source is accepted for the whole section."""

    inputs: dict[str, str] = Field({"source0": "street"}, max_length=256)
    """Source id → file, folder of images, rtsp:// or http(s):// URL, camera device, `street` or `demo`."""
    connect_timeout_seconds: float = Field(10.0, gt=0, le=86_400)
    """How long a live source may take to deliver its first frame before it counts as unreachable."""
    read_timeout_seconds: float = Field(5.0, gt=0, le=3_600)
    """How long a live source may bring no picture before it counts as lost."""
    wait: bool = False
    """Keep trying, without end, to reach a network source at the start, whatever it answers."""
    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    """How RTSP carries the video; tcp loses nothing, udp is for networks that ask for it."""
    reconnect: bool = True
    """Whether a live source that was lost after its first frame is opened again."""
    reconnect_seconds: Annotated[float, Field(gt=0, le=31_536_000)] | None = None
    """Give up (exit code 2) when a lost live source has not come back within this time; null: never."""
    images_fps: float = Field(10.0, ge=0.001, le=1000)
    """Frames a second that a folder of images stands for."""
    detect_cuts: bool = True
    """Whether tracks end at a cut to another shot, as edited films have them; ids never go on over one."""
    skip_damaged: bool = False
    """Leave out pictures that lost something on the way, up to the next whole one; they count as `decode`."""
    frozen_seconds: float | None = Field(10.0, gt=0, le=86_400)
    """A live source that shows one and the same picture, or black, for so long says so; null: never."""
    decoder: Literal["cpu", "cuda", "auto"] = "cpu"
    """What decodes video: cpu, cuda (NVDEC, or an error), auto (NVDEC where the GPU can, else the CPU)."""

    @model_validator(mode="before")
    @classmethod
    def _accept_plain_inputs(cls, value: Any) -> Any:
        if isinstance(value, (str, Path)):
            return {"inputs": {"source0": str(value)}}
        if not isinstance(value, Mapping) or not value or set(value) & set(cls.model_fields):
            return value
        if all(isinstance(each, (str, Path)) for each in value.values()):
            return {"inputs": {name: str(each) for name, each in value.items()}}
        return value

    @field_validator("inputs")
    @classmethod
    def _check_names(cls, value: dict[str, str]) -> dict[str, str]:
        if not value:
            raise ValueError("at least one source is needed")
        for name, each in value.items():
            check_source_id(name)
            if not each:
                raise ValueError(
                    f"source {name!r} is empty: give a file, a URL, a device, 'street' or 'demo'"
                )
        return value


class CadenceConfig(Section):
    """Which of the source's frames the model is shown."""

    fps: float | Literal["source"] = 10.0
    """Frames a second of stream time (PTS), or `source` for every frame."""
    hold: bool = False
    """Publish the frames between too, with the last known instances, marked as held."""

    @field_validator("fps", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if isinstance(value, float) and not 0 < value <= 1000:
            raise ValueError("must be above 0 and at most 1000, or 'source'")
        return value


class WindowConfig(Section):
    """Sliding windows; their length T is `model.network.num_frames`."""

    stride: int = Field(1, ge=1, le=1000)
    """New frames per window, 1..T. Published latency grows by stride − 1 frames."""


class ModelSection(Section):
    """Which network runs."""

    weights: str | None = SHIPPED_WEIGHTS
    """`default`: the weights that ship; `resnet18`: those that shipped before; a .safetensors file made by
    `python -m model convert` or training; null: seeded at random, untrained."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the random weights where `weights` is null."""
    class_bias: float = Field(0.0, ge=-100, le=100)
    """Bias of the class logits where `weights` is null; 0 lets candidates pass the thresholds."""
    network: dict[str, Any] = {}
    """Fields of `model.ModelConfig` that differ from its defaults (or must agree with the weights)."""
    classes: Annotated[list[str], Field(min_length=1, max_length=10_000)] | None = None
    """Names of the classes to look for, as the model's class list spells them; all others are ignored.
    null takes what the list recommends: person, vehicles, animals and `object` of `coco` and
    `coco_and_object`, every class of other lists."""
    score_thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Class name → score from which an unmatched candidate of this class starts a track, in place of
    `association.birth_score`; weaker ones still keep tracks alive, down to `association.min_score`."""
    max_instances: int = Field(20, ge=1, le=300)
    """Queries per window whose masks are computed (best class score first)."""
    max_batch: int = Field(1, ge=1, le=64)
    """Windows of several sources that are decoded in one call where they wait together; for GPUs."""
    cache: bool = True
    """Keep the per-frame part of the network for the windows that overlap; results are the same without."""
    cues: bool = True
    """Compute the network's cues (`network.cues`) from the stream; false leaves their planes at zero."""
    num_threads: int | None = Field(None, ge=1, le=1024)
    """CPU threads of the network; null leaves torch's choice."""
    device: str = Field("cpu", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")
    """What runs the network: cpu, cuda, cuda:N, or auto (a GPU where there is one)."""
    precision: Precision = "auto"
    """Arithmetic of the network; auto is bf16 on a GPU and on a CPU that has it (AVX-512 BF16), else fp32.
    Coordinates and scores stay fp32."""
    engine: EngineName = "auto"
    """How it is run: eager, inductor (compiled for this machine), tensorrt (GPUs), or auto: on a CPU eager
    at once, then compiled as soon as that is loaded or built next to the stream (docs/runtime.md)."""

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, value: list[str] | None) -> list[str] | None:
        twice = next((name for name in value or () if (value or []).count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is named twice")
        return value

    @field_validator("network")
    @classmethod
    def _check_network(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            ModelConfig.from_dict(value)
        except TypeError as error:
            raise ValueError(str(error)) from None
        return value


class AssociationConfig(Section):
    """Instances of overlapping windows → tracks. Starting point: the design's numbers; each can be tuned."""

    min_score: float = Field(0.20, ge=0, le=1)
    """Candidates below this best class score are ignored."""
    high_score: float = Field(0.40, ge=0, le=1)
    """Candidates from here on are matched first; below, only to confirmed tracks."""
    birth_score: float = Field(0.40, ge=0, le=1)
    """An unmatched candidate from here on starts a tentative track."""
    confirm_quality: float = Field(0.80, ge=0, le=1)
    """score × mask quality from here on confirms a track at once."""
    confirm_windows: int = Field(2, ge=1)
    """Windows that must have seen a tentative track before it is confirmed."""
    birth_max_iou: float = Field(0.50, ge=0, le=1)
    """A candidate that overlaps a live track's by this much, measured as in `nms_iou`, starts no track."""
    nms_iou: float = Field(0.50, gt=0, le=1)
    """Two candidates of a window that overlap by this much count as one: the weaker is dropped. Overlap is
    the mean of the soft spatio-temporal IoU of their masks and the IoU of their boxes."""
    gate_iou: float = Field(0.20, ge=0, le=1)
    """Least soft IoU on the shared frames for a match."""
    gate_embedding: float = Field(0.60, ge=-1, le=1)
    """Without overlap: least cosine similarity of the embeddings (and a reachable centre)."""
    gate_class: float = Field(0.3, ge=0, le=1)
    """Below this agreement (cosine) of a candidate's class scores with a track's mean, the two are of
    different kinds. A match then needs an overlap of at least 0.3."""
    weight_iou: float = Field(0.6, ge=0, le=1)
    """Share of the soft IoU in the similarity."""
    weight_embedding: float = Field(0.3, ge=0, le=1)
    """Share of the embedding's cosine."""
    weight_class: float = Field(0.1, ge=0, le=1)
    """Share of the class agreement."""
    weight_lost: float = Field(0.5, ge=0, le=1)
    """What the similarity of a lost track counts where it competes with live tracks for a candidate."""
    max_speed: float = Field(1.0, gt=0, le=1000)
    """Reach of a centre per second, in frame diagonals."""
    matching: Literal["hungarian", "greedy"] = "hungarian"
    """How pairs are chosen from the similarities."""
    max_tracks: int = Field(64, ge=1, le=1024)
    """Tracks held at once; bounds the memory."""
    max_candidates: int = Field(30, ge=1, le=300)
    """Candidates of a window looked at, best score first."""
    embedding_memory: int = Field(10, ge=1, le=100)
    """Embeddings remembered per track."""
    lost_seconds: float = Field(1.0, ge=0, le=3_600)
    """Stream time after which a track that was not seen ends."""
    class_memory: int = Field(30, ge=1)
    """Windows that the running mean of a track's class scores goes back."""
    class_hysteresis: float = Field(0.10, ge=0, le=1)
    """How far another class's mean must lead before a track changes its class."""
    show_tentative: bool = True
    """Publish tentative tracks too (their state says so)."""


class PublishConfig(Section):
    """The mask stream over ZeroMQ (docs/wire.md). A plain string is accepted as the address."""

    address: str | None = None
    """Where to bind, e.g. tcp://127.0.0.1:5555. "none" publishes nothing. null publishes nothing
    either, except that the command line then binds tcp://127.0.0.1:5555."""
    wait_for_subscribers: int = Field(0, ge=0, le=1_000_000)
    """Wait for this number of subscribers before frame 0."""
    block: bool = False
    """A slow subscriber slows the stream down instead of losing messages; for files."""
    allow_plaintext: bool = False
    """Allow an address beyond loopback without encryption."""
    curve_secret_key_file: str | None = None
    """The server's CURVE key pair (`python -m pipeline keys`); encrypts the stream."""
    curve_allowed_clients: list[str] = []
    """Clients that may subscribe: public keys (40 characters) or key files; empty: all that know the server's
    key."""
    high_water_mark: int = Field(1000, ge=1, le=1_000_000)
    """Messages kept per slow subscriber before new ones are lost to it (not used with `block`)."""
    heartbeat_seconds: float = Field(1.0, ge=0.01, le=3_600)
    """Heartbeat of each source."""
    producer: str = Field("mssts-stream", min_length=1, max_length=256)
    """Name of this producer in the headers."""

    @model_validator(mode="before")
    @classmethod
    def _accept_address(cls, value: Any) -> Any:
        return {"address": value} if isinstance(value, str) else value


class RecordConfig(Section):
    """Overlay video. A plain string is accepted as the path."""

    path: str | None = None
    """An .mp4 file; with several sources `{source}` stands in the name. null records nothing."""
    crf: int = Field(23, ge=0, le=51)
    """H.264 quality, lower is better."""
    preset: str = "veryfast"
    """x264 speed preset."""
    max_seconds: float | None = Field(None, ge=1, le=31_536_000)
    """Begin a new file when one holds so many seconds. With this or `max_bytes` a recording rotates: its
    files are called `{stem}-YYYYmmdd-HHMMSS[-n].mp4` (local time of the first frame). null: one file."""
    max_bytes: int | None = Field(None, ge=100_000, lt=2**63)
    """Begin a new file when one has about this size."""
    keep_files: int | None = Field(None, ge=1, le=10_000_000)
    """Finished files that are kept of a recording that rotates; the oldest are deleted."""
    keep_bytes: int | None = Field(None, ge=100_000, lt=2**63)
    """The same as the bytes of these files together; the one being written comes on top."""
    keep_seconds: float | None = Field(None, ge=1, le=3_153_600_000)
    """The same as recorded time: a file is deleted when the newer ones hold at least this much."""

    @model_validator(mode="before")
    @classmethod
    def _accept_path(cls, value: Any) -> Any:
        return {"path": str(value)} if isinstance(value, (str, Path)) else value

    @model_validator(mode="after")
    def _check_limits(self) -> RecordConfig:
        for key in ("keep_files", "keep_bytes", "keep_seconds"):
            if getattr(self, key) is not None and not self.rotates:
                raise ValueError(f"{key} deletes rotated files: set max_seconds or max_bytes too")
        if self.max_bytes is not None and self.keep_bytes is not None and self.keep_bytes < self.max_bytes:
            raise ValueError(
                f"keep_bytes {self.keep_bytes} is less than one file of max_bytes {self.max_bytes}: raise it"
            )
        return self

    @property
    def rotates(self) -> bool:
        """Whether the recording goes on in a new file after some time or size."""
        return self.max_seconds is not None or self.max_bytes is not None


class DisplayConfig(Section):
    """Overlay window."""

    enabled: bool = False
    """Show each source in a window; needs a display."""


class QueueConfig(Section):
    """Bounds between the threads. Files wait when full; live sources drop the oldest, counted."""

    frames: int = Field(8, ge=1, le=256)
    """Frames of a file between decoding and inference."""
    live_frames: int = Field(1, ge=1, le=256)
    """The same for a live source: small, because a waiting frame is a late frame."""
    results: int = Field(32, ge=1, le=1024)
    """Results per source between inference and the sinks."""


class StreamConfig(Section):
    """Everything about a stream; `StreamConfig(source="clip.mp4")` is enough."""

    source: SourceConfig = SourceConfig()
    cadence: CadenceConfig = CadenceConfig()
    window: WindowConfig = WindowConfig()
    model: ModelSection = ModelSection()
    association: AssociationConfig = AssociationConfig()
    emission: Literal["first", "final", "both"] = "first"
    """Publish a frame on first sight, when its last window has voted, or both."""
    publish: PublishConfig = PublishConfig()
    record: RecordConfig = RecordConfig()
    display: DisplayConfig = DisplayConfig()
    queue: QueueConfig = QueueConfig()
    max_frames: int | None = Field(None, ge=1, lt=2**63)
    """Stop each source after this number of frames was read from it."""

    @model_validator(mode="after")
    def _check_across(self) -> StreamConfig:
        own = self.model.weights not in (None, SHIPPED_WEIGHTS, FORMER_WEIGHTS)
        if not own and self.window.stride > self.network.num_frames:
            raise ValueError(stride_error(self.window.stride, self.network.num_frames))
        if self.cadence.hold and self.emission == "final":
            raise ValueError(
                "cadence.hold publishes the frames between at once, emission: final the others later: "
                "the order in time would be lost. Use emission: first or both with cadence.hold"
            )
        if (
            self.record.path is not None
            and len(self.source.inputs) > 1
            and "{source}" not in self.record.path
        ):
            raise ValueError(
                f"record.path {self.record.path!r} needs {{source}} in its name with several sources"
            )
        return self

    @property
    def network(self) -> ModelConfig:
        """The network's config, defaults filled in (where `model.weights` is given, the file's config
        counts)."""
        return ModelConfig.from_dict(self.model.network)


def stride_error(stride: int, num_frames: int) -> str:
    """Say that windows of T frames cannot advance by more than T."""
    return f"window.stride {stride} is larger than the window, model.network.num_frames = {num_frames}"
