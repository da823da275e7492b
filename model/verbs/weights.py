"""Verbs on files of weights: convert, import-detector, blend, show."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from model.class_lists import CLASS_LISTS
from model.config import Variant


def convert(arguments: Sequence[str]) -> None:
    """Turn a published SeqFormer checkpoint (.pth), or the folder of a training run, into our format."""
    parser = argparse.ArgumentParser(prog="python -m model convert", description=convert.__doc__)
    parser.add_argument("checkpoint", help="the .pth file (no code in it is run), or a run's folder")
    parser.add_argument("weights", help="the .safetensors file to write")
    parser.add_argument(
        "--variant", default="baseline", choices=get_args(Variant), help="encoder variant (default: baseline)"
    )
    parser.add_argument(
        "--decoder-temporal-attention",
        action="store_true",
        help="add the decoder's attention over time, starting at zero",
    )
    parser.add_argument(
        "--class-list",
        default="youtube_vis_2019",
        choices=list(CLASS_LISTS),
        help="data set of the checkpoint (default: youtube_vis_2019)",
    )
    options = parser.parse_args(arguments)
    from model.checkpoint.weights_file import load_seqformer, read_pickle, save_weights

    if Path(options.checkpoint).is_dir():
        from model.training.command import write_trained

        print(write_trained(Path(options.checkpoint), Path(options.weights)))
        return
    network = load_seqformer(
        read_pickle(options.checkpoint),
        variant=options.variant,
        decoder_temporal_attention=options.decoder_temporal_attention,
        class_list=options.class_list,
    )
    save_weights(network, options.weights, name=network.metadata["name"], trained=True)
    elements = sum(value.numel() for value in network.state_dict().values())
    print(f"{options.weights}: {network.metadata['name']}, {elements / 1e6:.2f} M elements")


def import_detector(arguments: Sequence[str]) -> None:
    """Read NanoDet-g, trained on COCO, from the package that ships it (docs/training.md)."""
    parser = argparse.ArgumentParser(
        prog="python -m model import-detector", description=import_detector.__doc__
    )
    parser.add_argument(
        "graph", metavar="FILES", help="nanodet.json with nanodet.bin next to it, or the folder of both"
    )
    parser.add_argument("output", metavar="OUT", help="the .safetensors file to write")
    options = parser.parse_args(arguments)
    from model.checkpoint.nanodet import NOTES, read_nanodet, save_detector

    trunk, detector = read_nanodet(options.graph)
    save_detector(trunk, detector, options.output)
    elements = sum(value.numel() for part in (trunk, detector) for value in part.parameters())
    print(f"{options.output}: {NOTES['detector']}, {elements / 1e6:.2f} M elements")


def blend(arguments: Sequence[str]) -> None:
    """Blend the weights of two networks of one architecture (docs/training.md)."""
    parser = argparse.ArgumentParser(prog="python -m model blend", description=blend.__doc__)
    parser.add_argument("first", help="a .safetensors file, or default (shipped): what training began with")
    parser.add_argument("second", help="a .safetensors file, or default: what came of it")
    parser.add_argument("output", help="the .safetensors file to write, half precision")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1 (default: 0.5)")
    parser.add_argument(
        "--class-bias", type=float, default=0.0, help="added to the class logits (default: 0)"
    )
    options = parser.parse_args(arguments)
    import torch

    from model.checkpoint.blend import blended
    from model.checkpoint.weights_file import load_weights, save_weights, weights_path

    first, second = (load_weights(weights_path(name)) for name in (options.first, options.second))
    network = blended(first, second, share=options.share, class_bias=options.class_bias)
    reserved = ("format", "config", "name", "trained")
    notes = {key: value for key, value in second.metadata.items() if key not in reserved}
    notes["blend"] = f"{options.share} of {Path(options.second).name} over {Path(options.first).name}"
    save_weights(
        network,
        options.output,
        name=Path(options.output).stem,
        trained=first.trained and second.trained,
        notes=notes,
        dtype=torch.float16,
    )
    print(f"{options.output}: {notes['blend']}, class bias {options.class_bias:+g}")


def show(arguments: Sequence[str]) -> None:
    """Print what a .safetensors file of ours holds: metadata, config and parameters by part."""
    parser = argparse.ArgumentParser(prog="python -m model show", description=show.__doc__)
    parser.add_argument("weights", help="the .safetensors file")
    options = parser.parse_args(arguments)
    from model.checkpoint.weights_file import load_weights

    network = load_weights(options.weights)
    for key, value in sorted(network.metadata.items()):
        print(f"{key}: {value}")
    print("config:")
    for key, value in network.config.to_dict().items():
        print(f"  {key}: {value}")
    parts: Counter[str] = Counter()
    for name, value in network.state_dict().items():
        parts[name.split(".")[0]] += value.numel()
    print("elements:")
    for part, count in parts.items():
        print(f"  {part}: {count}")
    print(f"  all: {parts.total()}")
