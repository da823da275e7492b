"""Weights in files: our own format, and published SeqFormer checkpoints.

Our format is safetensors with the config as JSON in the metadata: a file says what it is and holds no code.
It holds a digest of all that it says, so that a file in which a bit has turned is none.
Published files are pickles: they are read weights-only, with nothing but tensors, plain containers and
`argparse.Namespace` (their training arguments) allowed. Source of the SeqFormer layout: model.md 1.

Dimensions: C width, M heads, L levels, K points.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint.pickles import find_code, is_pickle
from model.checkpoint.seqformer import read_config, rename
from model.class_lists import ClassListName
from model.config import FORMER_WEIGHTS, SHIPPED_WEIGHTS, ModelConfig, Variant
from model.errors import CheckpointError, MissingPackageError
from model.layers.encoder import INSIDE
from model.network import Network, build_model, empty_network
from ops.files import written_whole

FORMAT = "mssts-stream/1"
DIGEST = "digest"
"""Key of the metadata that holds what `digest_of` gives for the rest of the file; older files have none."""

StateDict = Mapping[str, Tensor]


def save_weights(
    network: Network,
    path: str | os.PathLike[str],
    *,
    name: str,
    trained: bool,
    notes: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the network's weights and config to `path`, whole or not at all.

    name is what logs call the weights; notes are further text for the metadata; dtype is the precision of the
    floating-point tensors in the file (they are float32 again when loaded).
    Raises OSError where the file cannot be written, ValueError if a note takes a reserved key or a tensor
    holds what is no number.
    """
    notes = dict(notes or {})
    metadata = {
        "format": FORMAT,
        "config": json.dumps(network.config.to_dict()),
        "name": name,
        "trained": "true" if trained else "false",
    }
    taken = sorted({*metadata, DIGEST} & notes.keys())
    if taken:
        raise ValueError(f"notes may not use the reserved keys {', '.join(taken)}")
    tensors = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    write_tensors(Path(path), tensors, {**notes, **metadata})


def load_weights(path: str | os.PathLike[str]) -> Network:
    """The network of a file in our format, in eval mode; `network.metadata` holds the file's metadata.

    Raises CheckpointError for a missing, damaged or foreign file or weights of another architecture.
    """
    path = Path(path)
    metadata, tensors = read_tensors(path)
    config = _stored_config(metadata, where=str(path))
    network = empty_network(config)
    _fill(network, tensors, where=f"weights {str(path)!r}")
    network.metadata = {key: value for key, value in metadata.items() if key not in ("config", DIGEST)}
    return network


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a .safetensors file, all finite, and as they were written if a digest is there.

    Raises CheckpointError for a missing or damaged file, or one of another kind.
    """
    safetensors = _safetensors()
    if not os.path.isfile(path):  # where Path raises for a name that is too long, this says no
        raise CheckpointError(f"weights {str(path)!r}: no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, OSError) as exc:
        if path.suffix in (".pth", ".pt") or is_pickle(path):
            raise CheckpointError(
                f"weights {str(path)!r}: a PyTorch checkpoint (.pth), no safetensors file: convert it with "
                f"`python -m model convert {path} {path.with_suffix('.safetensors')}`"
            ) from exc
        raise CheckpointError(
            f"weights {str(path)!r}: not a complete safetensors file ({exc}); copy it again"
        ) from exc
    if metadata.get(DIGEST, wanted := digest_of(tensors, metadata)) != wanted:
        raise CheckpointError(
            f"weights {str(path)!r}: damaged: the digest inside is not that of its content; copy it again"
        )
    if fault := not_finite(tensors):
        raise CheckpointError(
            f"weights {str(path)!r}: {fault}; copy it again, or take weights from before the training failed"
        )
    return metadata, tensors


def digest_of(tensors: StateDict, metadata: Mapping[str, str]) -> str:
    """SHA-256 of a file's metadata, but for the digest, and of its tensors by name, type, shape and bytes."""
    told = hashlib.sha256()
    told.update(json.dumps({key: metadata[key] for key in sorted(metadata.keys() - {DIGEST})}).encode())
    for key in sorted(tensors):
        tensor = tensors[key].contiguous().cpu()
        told.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        told.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{told.hexdigest()}"


def not_finite(tensors: StateDict) -> str:
    """Say which tensors hold what is no number, "" where none does."""
    wrong = [
        key
        for key, value in tensors.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    return f"holds what is no finite number in {_some(wrong)}" if wrong else ""


def write_tensors(path: Path, tensors: StateDict, metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file with its digest, whole or not at all.

    Raises OSError where it cannot be written, ValueError where a tensor holds what is no number.
    """
    save = _safetensors().torch.save
    whole = {key: value.contiguous().cpu() for key, value in tensors.items()}
    if fault := not_finite(whole):
        raise ValueError(f"these weights are not written: the network {fault}; did the training fail?")
    content = save(whole, {**metadata, DIGEST: digest_of(whole, metadata)})
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content)


def weights_path(name: str) -> Path:
    """The file of `default` or `resnet18`, which ship with the package (docs/model-card.md), or of a path."""
    if name in (SHIPPED_WEIGHTS, FORMER_WEIGHTS):
        return Path(__file__).parents[1] / "weights" / f"{name}.safetensors"
    return Path(name)


def shipped_weights() -> Path:
    """The file of the default weights."""
    return weights_path(SHIPPED_WEIGHTS)


def load_seqformer(
    state_dict: Mapping[str, Any],
    *,
    variant: Variant = "baseline",
    decoder_temporal_attention: bool = False,
    class_list: ClassListName = "youtube_vis_2019",
) -> Network:
    """The network of a published SeqFormer checkpoint, ResNet-50 or -101; the layout is read from the shapes.

    state_dict: the checkpoint's "model" entry, or the whole checkpoint with it. class_list: the data set it
    was trained on, which its shapes do not tell.
    variant and decoder_temporal_attention add modules that the baseline lacks, with updates that start at
    zero: the outputs stay the baseline's until they are trained. Possible for sequential_attention_1,
    sequential_attention_2 and split.
    Raises CheckpointError naming missing, unexpected or misshaped keys, ValueError for another variant.
    """
    if variant not in ("baseline", *INSIDE):
        raise ValueError(
            f"variant {variant!r} cannot start as the baseline: its extra layers end in a norm; "
            f"use one of {', '.join(('baseline', *INSIDE))}"
        )
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(_no_mapping("the checkpoint", state_dict))
    entries = state_dict["model"] if isinstance(state_dict.get("model"), Mapping) else state_dict
    tensors = {key: value for key, value in entries.items() if _is_entry(key, value)}
    config = read_config(
        tensors,
        variant=variant,
        decoder_temporal_attention=decoder_temporal_attention,
        class_list=class_list,
    )
    network = build_model(config, seed=0)
    added = {
        key for key in network.state_dict() if key.startswith("encoder.sts.") or ".time_attention." in key
    }
    if fault := not_finite(tensors):
        raise CheckpointError(f"SeqFormer checkpoint: {fault}; copy it again")
    _fill(network, rename(tensors, config), where="SeqFormer checkpoint", may_lack=added)
    network.metadata = {"name": f"seqformer-{config.backbone}", "trained": "true"}
    return network


def read_pickle(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The content of a .pth file, read without running any code in it.

    Raises CheckpointError for a missing or damaged file and for one that holds anything but weights.
    """
    path = Path(path)
    where = f"checkpoint {str(path)!r}"
    if not os.path.isfile(path):  # where Path raises for a name that is too long, this says no
        raise CheckpointError(f"{where}: no such file")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        found = re.search(r"GLOBAL ([\w.]+)", str(exc))
        code = found[1] if found else find_code(path)
        if code:
            raise CheckpointError(
                f"{where}: holds code ({code}) besides weights; nothing of it was run. "
                "Save a plain state dict of tensors where the file came from"
            ) from exc
        raise CheckpointError(f"{where}: damaged or not a PyTorch file; copy it again") from exc
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as exc:
        reason = (str(exc) or type(exc).__name__).splitlines()[0]
        raise CheckpointError(f"{where}: truncated or not a PyTorch file ({reason}); copy it again") from exc
    if not isinstance(content, Mapping):
        raise CheckpointError(_no_mapping(where, content))
    return content


def _no_mapping(where: str, content: object) -> str:
    return (
        f"{where}: holds a {type(content).__name__}, expected a state dict (names → tensors), alone or as "
        "its entry 'model'; save that where the file came from"
    )


def _is_entry(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _stored_config(metadata: Mapping[str, str], *, where: str) -> ModelConfig:
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise CheckpointError(
            f"weights {where!r}: format {metadata.get('format', 'unknown')!r}, expected {FORMAT!r}; "
            "make such files with `python -m model convert` or `model.checkpoint.save_weights`"
        )
    try:
        return ModelConfig.from_dict(json.loads(metadata["config"]))
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as exc:
        raise CheckpointError(
            f"weights {where!r}: the config inside is not one this version knows ({str(exc)[:300]})"
        ) from exc


def _fill(network: Network, tensors: StateDict, *, where: str, may_lack: Set[str] = frozenset()) -> None:
    """Copy tensors into the network's parameters and buffers, as float32.

    Raises CheckpointError naming what is missing, unexpected or of another shape.
    """
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in tensors and key not in may_lack]
    unexpected = [key for key in tensors if key not in wanted]
    misshaped = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    faults = [
        f"{what}: {_some(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("shape", misshaped))
        if keys
    ]
    if faults:
        raise CheckpointError(f"{where}: of another architecture than its config; {'; '.join(faults)}")
    with torch.no_grad():
        for key, value in wanted.items():
            if key in tensors:
                value.copy_(tensors[key])


def _some(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:4])
    return shown if len(keys) <= 4 else f"{shown} and {len(keys) - 4} more"


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as exc:
        raise MissingPackageError(
            "reading and writing weights needs the package safetensors: pip install safetensors"
        ) from exc
    return safetensors
