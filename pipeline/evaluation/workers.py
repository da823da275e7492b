"""`predict_dataset` over several processes: each takes a video at a time, with a predictor of its own.

One window's work does not fill many cores. Videos are independent of each other, so processes scale where
threads do not. The results do not depend on the number of processes, but for the last bits, which change with
a network's number of threads. Source: ours.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import StreamConfig
from pipeline.evaluation.annotated import AnnotatedVideos, open_annotated
from pipeline.evaluation.evaluate import (
    Mode,
    Predictions,
    Row,
    check_mode,
    comparable_truth,
    gather,
    video_rows,
)
from pipeline.inference.network_predictor import load_predictor
from pipeline.inference.predictor import ModelFacts, Predictor


@dataclass(frozen=True)
class DataPlace:
    """The arguments of `open_annotated`: each process opens the data set itself."""

    data: str | Path
    images: str | Path | None = None
    limit: int | None = None

    def open(self) -> AnnotatedVideos:
        """Raises DatasetError."""
        return open_annotated(self.data, images=self.images, limit=self.limit)


def predict_in_processes(
    config: StreamConfig,
    facts: ModelFacts,
    place: DataPlace,
    mode: Mode,
    *,
    num_workers: int,
    num_threads: int = 1,
    progress: Callable[[int], object] | None = None,
) -> Predictions:
    """Run the config's network over a data set in `num_workers` processes of `num_threads` threads each.

    `facts` are those of the network; the rest and what is raised is as in `predict_dataset`.
    """
    check_mode(mode)
    begun = time.monotonic()
    truth = comparable_truth(place.open().truth, facts)
    section = config.model.model_copy(update={"num_threads": num_threads})
    config = config.model_copy(update={"model": section})
    # Not forked: torch's threads do not survive that.
    context = multiprocessing.get_context("spawn")
    rows: dict[int, list[Row]] = {}
    executor = ProcessPoolExecutor(
        min(num_workers, len(truth.videos)), context, initializer=_start, initargs=(config, place, mode)
    )
    try:
        futures = {executor.submit(_run, video_id): video_id for video_id in truth.videos}
        for future in as_completed(futures):
            video_id = futures[future]
            rows[video_id] = future.result()
            if progress is not None:
                progress(truth.videos[video_id].length)
    finally:
        executor.shutdown(cancel_futures=True)
    return gather(truth, facts, mode, rows, seconds=time.monotonic() - begun)


@dataclass(frozen=True, eq=False)
class _Worker:
    config: StreamConfig
    predictor: Predictor
    dataset: AnnotatedVideos
    mode: Mode


_worker: _Worker | None = None
"""Of a worker process: set once by `_start`."""


def _start(config: StreamConfig, place: DataPlace, mode: Mode) -> None:
    global _worker
    _worker = _Worker(config, load_predictor(config), place.open(), mode)


def _run(video_id: int) -> list[Row]:
    assert _worker is not None
    video = _worker.dataset.truth.videos[video_id]
    return video_rows(_worker.config, _worker.predictor, _worker.dataset, video, _worker.mode)
