"""`python -m pipeline VERB`: one function a verb, a literal table. Exit codes: see `main`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from model.config import FORMER_WEIGHTS
from model.errors import ModelError
from ops.cores import usable_cores
from pipeline.arguments import Parser
from pipeline.errors import MessageError, OutputError, StreamError
from pipeline.process import LOG_FORMAT
from pipeline.types import MaskMessage, check_source_id

logger = logging.getLogger("pipeline")  # not __main__: the name that readers know


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code.

    0 the end, `--count` reached, Ctrl-C or SIGTERM; 1 bad arguments, address or files, `adapt` interrupted; 2
    nobody publishes, or in another version, or a source that cannot be read; 3 internal.
    """
    parser = Parser(
        prog="python -m pipeline",
        description="Readers of the mask stream, evaluation, and weights adapted to a camera.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for name, (add, run) in VERBS.items():
        verb = verbs.add_parser(name, help=run.__doc__, description=run.__doc__)
        verb.set_defaults(run=run)
        add(verb)
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=LOG_FORMAT)
    # A shell starts background jobs with SIGINT ignored, which Python keeps: both are asked for by name.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        run_verb: Callable[[argparse.Namespace], int] = options.run
        return run_verb(options)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # The reader of our output has gone, as in `… | head`; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (TimeoutError, MessageError) as error:
        logger.error("%s", error)
        return 2
    except StreamError as error:
        logger.error("%s", error)
        return error.exit_code
    except (ModelError, ValueError, OSError) as error:
        logger.error("%s", error)
        return 1


def subscribe(options: argparse.Namespace) -> int:
    """Print the messages of a mask stream."""
    from pipeline.wire.messages import printable
    from pipeline.wire.subscriber import Subscriber

    with Subscriber(
        options.address,
        options.source,
        timeout_seconds=options.timeout,
        server_key=options.server_key,
        client_key_file=options.client_key_file,
    ) as subscriber:
        number = 0
        try:
            while options.count is None or number < options.count:
                message = subscriber.latest() if options.latest else next(subscriber, None)
                if message is None:
                    break
                if number == 0 and not message.trained:
                    logger.warning(
                        "the weights of model %s are untrained: its masks mean nothing",
                        printable(message.model_name),
                    )
                number += 1
                print(_json_line(message) if options.json else _line(message), flush=True)
        finally:
            logger.info(
                "%d messages, %d lost, %d skipped, %d malformed",
                number,
                sum(subscriber.lost.values()),
                subscriber.skipped,
                subscriber.malformed,
            )
            for end in subscriber.ended.values():
                detail = f": {printable(end.detail)}" if end.detail else ""
                logger.info("source %s ended (%s)%s", end.source, end.reason, detail)
    return 0


def _subscribe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDR", help="where the stream is published: tcp://HOST:PORT")
    parser.add_argument("--source", metavar="ID", type=_source, help="read this source only, until it ends")
    parser.add_argument(
        "--latest", action="store_true", help="skip to the newest message when reading is slow"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, masks as COCO RLE")
    parser.add_argument("--count", metavar="N", type=_count, help="stop after this number of messages")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        help="give up when nothing is heard within this time (exit code 2)",
    )
    parser.add_argument(
        "--server-key", metavar="KEY", help="the publisher's public key or key file, for an encrypted stream"
    )
    parser.add_argument(
        "--client-key",
        metavar="FILE",
        dest="client_key_file",
        help="our secret key file, where the publisher allows some clients only",
    )


def keys(options: argparse.Namespace) -> int:
    """Make key files for an encrypted stream."""
    from pipeline.wire.curve import write_keys

    server, server_secret, client, client_secret = write_keys(options.folder)
    print(f"publisher:  --set publish.curve_secret_key_file={server_secret}")
    print(f"            --set publish.curve_allowed_clients=[{client}]   (leave out: any client may come)")
    print(f"subscriber: --server-key {server} --client-key {client_secret}")
    return 0


def _keys_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="where the four files are written")


def evaluate(options: argparse.Namespace) -> int:
    """Run windows, network and association over an annotated data set and print its metrics."""
    from pipeline.process import tune_process

    # Nothing else runs meanwhile: no core is left to a decoder.
    threads: int = options.threads or usable_cores()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    tune_process()
    from tqdm import tqdm

    from model.evaluation.clips import to_json
    from model.evaluation.report import format_metrics
    from pipeline.config_file import load_config
    from pipeline.evaluation.evaluate import metrics_of, predict_dataset
    from pipeline.evaluation.workers import DataPlace, predict_in_processes
    from pipeline.inference.network_predictor import load_predictor

    section = {"weights": options.weights, "num_threads": options.threads}
    values = {"model": {key: value for key, value in section.items() if value is not None}}
    config = load_config(options.config, overrides=options.overrides, values=values)
    # Metrics must not depend on what a machine has compiled before, nor on its arithmetic.
    fixed = {"engine": "eager", "precision": "fp32"}
    changed = {key: value for key, value in fixed.items() if getattr(config.model, key) == "auto"}
    config = config.model_copy(update={"model": config.model.model_copy(update=changed)})
    place = DataPlace(options.data, options.images, options.limit)
    dataset = place.open()
    target, truth_target = _result_paths(options.results, Path(dataset.truth.name))
    predictor = load_predictor(config)
    total = sum(video.length for video in dataset.truth.videos.values())
    with tqdm(total=total, desc=options.mode, unit=" frames", file=sys.stderr, disable=None) as bar:
        if options.workers == 1:
            predictions = predict_dataset(config, predictor, dataset, options.mode, progress=bar.update)
        else:
            predictions = predict_in_processes(
                config,
                predictor.facts,
                place,
                options.mode,
                num_workers=options.workers,
                num_threads=max(1, threads // options.workers),
                progress=bar.update,
            )
    if target is not None and truth_target is not None:
        # The ground truth too: it may be cut into clips, or have other categories than the file.
        target.write_text(json.dumps(predictions.rows))
        truth_target.write_text(json.dumps(to_json(predictions.truth)))
    metrics = metrics_of(predictions, options.mode)
    print(json.dumps(metrics, indent=1) if options.json else format_metrics(metrics))
    return 0


def adapt(options: argparse.Namespace) -> int:
    """Re-estimate a network's normalisation statistics on a camera's own frames."""
    from model.adapt import Frames
    from model.adapt import adapt as adapt_weights
    from pipeline.redact import only_host
    from pipeline.sources.pictures import read_pictures

    stop = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        stop.set()  # FFmpeg may swallow what is raised while it opens a source
        raise KeyboardInterrupt

    def until_stopped() -> Frames:
        yield from pictures
        if stop.is_set():
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    pictures = read_pictures(options.source, fps=options.fps, seconds=options.seconds, stop=stop)
    try:
        report = adapt_weights(
            until_stopped(),
            options.weights,
            options.output,
            shown=only_host(options.source),
            overlay=options.config_overlay,
            num_frames=options.frames,
            strength=options.strength,
        )
    except KeyboardInterrupt:
        logger.error("interrupted: the weights were not adapted")
        return 1
    print(report)
    return 0


def _adapt_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        required=True,
        metavar="SRC",
        help="file, folder of images, rtsp:// or http(s):// URL, camera",
    )
    parser.add_argument(
        "--weights",
        default=FORMER_WEIGHTS,
        metavar="IN",
        help="the .safetensors file to start from (default: resnet18, which ships and has batch norms)",
    )
    parser.add_argument(
        "--output",
        default="adapted.safetensors",
        metavar="OUT",
        help="the .safetensors file to write (default: adapted.safetensors)",
    )
    parser.add_argument(
        "--config-overlay", metavar="YAML", help="config that names OUT (default: OUT with the suffix .yaml)"
    )
    parser.add_argument("--frames", type=int, default=64, help="frames to learn from (default: 64)")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="stream time they are spread over (default: 30)"
    )
    parser.add_argument(
        "--fps", type=float, default=10.0, help="the stream's cadence.fps, for the cues (default: 10)"
    )
    parser.add_argument(
        "--strength", type=float, default=1.0, help="share of the new statistics, 0..1 (default: 1)"
    )


def _result_paths(target: Path | None, data: Path) -> tuple[Path, Path] | tuple[None, None]:
    """Return where results and their ground truth go; found out before the run that they cannot."""
    if target is None:
        return None, None
    paths = target, target.with_suffix(".gt.json")
    for path in paths:
        if path.exists() and path.samefile(data):
            raise OutputError(f"--results {target} would overwrite {data}: choose another name")
        try:
            path.open("ab").close()
        except OSError as error:
            raise OutputError(
                f"--results {path}: {error.strerror or error}; choose a path that can be written"
            ) from None
    return paths


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mode",
        required=True,
        choices=["whole", "window", "streaming"],
        help="whole videos, windows each on its own, or what a live subscriber gets",
    )
    parser.add_argument("--data", required=True, metavar="FILE|DIR", help="annotations, YouTube-VIS JSON")
    parser.add_argument(
        "--images", metavar="DIR", help="where its file_names start from (default: next to the annotations)"
    )
    parser.add_argument("--config", metavar="FILE", help="YAML config, as of run_stream.py")
    parser.add_argument("--weights", metavar="FILE", help="weights instead of the config's model.weights")
    parser.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        dest="overrides",
        help="override one config key, e.g. association.birth_score=0.4; repeatable",
    )
    parser.add_argument(
        "--results", metavar="FILE", type=Path, help="write results, and next to them the .gt.json they fit"
    )
    parser.add_argument("--limit", metavar="N", type=_count, help="the first N videos only")
    parser.add_argument("--threads", metavar="N", type=_count, help="CPU threads, of all workers together")
    parser.add_argument(
        "--workers", metavar="N", type=_count, default=1, help="processes that share the videos (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _json_line(message: MaskMessage) -> str:
    from pipeline.wire.message_json import to_json

    return json.dumps(to_json(message), separators=(",", ":"))


def _line(message: MaskMessage) -> str:
    """Return a message for people."""
    from pipeline.wire.messages import printable

    time = "" if message.pts_seconds is None else f" {message.pts_seconds:.3f} s"
    marks = "".join(
        f" [{mark}]"
        for mark, is_set in (
            ("held", message.held),
            ("damaged", message.damaged),
            ("not final", not message.final),
        )
        if is_set
    )
    instances = ", ".join(
        f"#{each.track_id} {printable(each.class_name) or each.class_id} {each.score:.2f}"
        + ("" if each.state == "confirmed" else f" ({each.state})")
        for each in message.instances
    )
    return (
        f"{message.source} {message.seq} frame {message.frame_index}{time}{marks}: {instances or 'nothing'}"
    )


def _source(text: str) -> str:
    try:
        return check_source_id(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text!r}")
    return value


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


VERBS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "subscribe": (_subscribe_arguments, subscribe),
    "keys": (_keys_arguments, keys),
    "evaluate": (_evaluate_arguments, evaluate),
    "adapt": (_adapt_arguments, adapt),
}
"""Verb → its arguments and its function."""


if __name__ == "__main__":
    sys.exit(main())
