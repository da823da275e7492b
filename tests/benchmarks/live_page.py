"""The part of docs/performance/cpu.md about engines and live streams: metrics → Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.camera_page import cameras, table

ENGINES = {"eager": "eager", "inductor": "compiled"}
PEERS = {
    "peer plain": "plain loop: decode, whole network on the last T frames, masks (`peer_plain.py`)",
    "peer per_frame": "per-frame network of 2.9 M random weights and ByteTrack, ultralytics, masks of 192×320",
    "peer per_frame_full_size": "the same, masks in source pixels, as ours",
}


def sections(metrics: Mapping[str, Any]) -> list[str]:
    """Lines of all sections, from the JSON of bench_engines, bench_live, bench_stages, bench_scaling and
    bench_cameras."""
    return [
        *engines(metrics["engines"]),
        *live(metrics["live"]),
        *stages(metrics["stages"]),
        *scaling(metrics["scaling"]),
        *cameras(metrics["cameras"]),
    ]


def others(found: Mapping[str, Any]) -> str:
    """A sentence about what else the machine did."""
    cores = found["others_cores"]
    return "" if cores is None else f" Other programs kept {cores:.2f} cores busy meanwhile."


def engines(found: Mapping[str, Any]) -> list[str]:
    """Eager against compiled, by T, threads and part."""
    rows = []
    for row in found["rows"]:
        for part, ratio in row["eager_over_compiled"].items():
            times = [f"{row[kind][name][part]:.1f}" for name in ENGINES for kind in ("best_ms", "median_ms")]
            shape = [str(row["num_frames"]), str(row["threads"]), part]
            rows.append([*shape, *times, f"{ratio['best']:.2f}×", f"{ratio['median']:.2f}×"])
    head = [
        "T",
        "threads",
        "part",
        "eager, best ms",
        "median",
        "compiled, best ms",
        "median",
        "ratio",
        "median",
    ]
    return [
        "## Engines: the network alone",
        "",
        "Both in the same run, in turn; a frame at stride s is s calls of `encode` and one of `decode` for s "
        f"frames; 20 instances kept, {found['capability']}.{others(found)}",
        *table(head, rows),
    ]


def live(found: Mapping[str, Any]) -> list[str]:
    """A stream end to end: a file, peers on it, a camera, the first mask."""
    lines = [
        "## A stream end to end",
        "",
        "`run_stream.py` runs as users run it, with a ZeroMQ subscriber in another process. One frame is encoded "
        f"while a window is decoded, with {_count(found['threads'], 'thread')} each here. The clip is 720p30 "
        f"H.264 of the demo's pictures ({found['frames']} frames), every one shown to the model. Streams and "
        f"peers run in turn, best of {found['rounds']}. Instruction sets: {', '.join(found['capabilities'])}.{others(found)}",
        *table(
            ["what", "frames/s, best", "median", "cores busy", "ms a window: network", "tracks", "sinks"],
            [_file_row(row) for row in found["file"] if row["name"] not in PEERS],
        ),
    ]
    peers = [row for row in found["file"] if row["name"] in PEERS]
    if peers:
        lines += [
            "Peers, on the same clip in the same run:",
            *table(
                ["peer", "frames/s, best", "median", "cores busy", "masks a frame"],
                [_peer_row(row) for row in peers],
            ),
            "ultralytics is no dependency (its licence is the AGPL): it is run as a peer where "
            "`--peer-python` names an interpreter that has it. Random weights: speed alone.",
            *({f"Versions: {row['versions']}." for row in peers if "versions" in row}),
            "",
        ]
    return [*lines, *_rtsp(found["rtsp"]), *_streams(found["streams"]), *_first(found["first_mask"])]


def _file_row(row: Mapping[str, Any]) -> list[str]:
    stages = [f"{row[f'{stage}_p50_ms']:.1f}" for stage in ("predict", "associate", "sinks")]
    return [
        _engine(row["name"]),
        f"{row['fps']:.1f}",
        f"{row['fps_median']:.1f}",
        f"{row['cores']:.2f}",
        *stages,
    ]


def _peer_row(row: Mapping[str, Any]) -> list[str]:
    if "missing" in row:
        return [PEERS[row["name"]], row["missing"], "", "", ""]
    rates = [f"{row[key]:.1f}" for key in ("fps", "fps_median")]
    return [PEERS[row["name"]], *rates, f"{row['cores']:.2f}", f"{row['masks']:.0f}"]


def _streams(found: Mapping[str, Any]) -> list[str]:
    served = max((row["streams"] for row in found["rows"] if not row.get("over", True)), default=0)
    rows = _latencies([{**row, "name": str(row.get("streams", row["name"]))} for row in found["rows"]])
    measured = any("streams" in row for row in found["rows"])
    return [
        f"Cameras at once, each at cadence {found['cadence']}, up to the first number whose 95th percentile is above "
        f"{found['budget_ms']:.0f} ms or that loses more than 1 % of the frames"
        + (f" (so **{served}** are served):" if measured else ":"),
        *table(["cameras", *_HEAD[1:]], rows),
    ]


_HEAD = ["RTSP 720p30", "p50 ms", "p95", "p99", "messages/s", "stale", "cores busy"]


def _latencies(found: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for row in found:
        if "missing" in row:
            rows.append([row["name"], row["missing"], *[""] * 5])
            continue
        latency = [f"{row['latency_ms'][key]:.0f}" for key in ("p50", "p95", "p99")]
        load = [f"{row['fps']:.1f}", f"{row['stale_percent']:.0f} %", f"{row['cores']:.2f}"]
        rows.append([row["name"], *latency, *load])
    return rows


def _rtsp(found: Mapping[str, Any]) -> list[str]:
    rows = _latencies(
        [{**row, "name": row["name"] if "missing" in row else _engine(row["name"])} for row in found["rows"]]
    )
    return [
        f"From the decoded frame to the subscriber, a real RTSP server at cadence {found['cadence']}, "
        f"{found['seconds']:.0f} s a row; stale: frames that were dropped because a newer one was there:",
        *table(_HEAD, rows),
    ]


def _first(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    titles = {
        "empty cache": "empty cache folder (compiles our operator first)",
        "second start": "second start, eager",
        "compiled before": "network compiled before",
    }
    return [
        "From starting the process to the first mask at the subscriber (files in the system's page cache):",
        *table(
            ["start", "first message, s", "first mask, s"],
            [
                [titles[row["cache"]], *(_seconds(row[f"{key}_seconds"]) for key in ("message", "mask"))]
                for row in rows
            ],
        ),
    ]


def stages(found: Mapping[str, Any]) -> list[str]:
    """Milliseconds a frame of each function, by thread and engine."""
    first = found["runs"][0]
    columns = [
        {row["part"]: [f"{row['wall_ms']:.2f}", f"{row['cpu_ms']:.2f}"] for row in run["rows"]}
        for run in found["runs"]
    ]
    names = [ENGINES[run["engine"]] for run in found["runs"]]
    rows = [
        [
            row["thread"],
            "· " * row["indent"] + row["part"],
            *(time for column in columns for time in column[row["part"]]),
        ]
        for row in first["rows"]
    ]
    return [
        f"## Where a frame's milliseconds go (720p file, stride {first['stride']})",
        "",
        "Medians, wall clock and the thread's own processor time; rows with a dot are part of the row above. "
        f"FFmpeg's own threads are not seen.{others(found)}",
        *table(
            ["thread", "part", *(f"{name}, {kind} ms" for name in names for kind in ("wall", "cpu"))], rows
        ),
    ]


def scaling(found: Mapping[str, Any]) -> list[str]:
    """Frames a second by T, stride and size; kept instances and streams besides."""
    grid = [row for row in found["rows"] if row["num_kept"] == 20 and row["streams"] == 1]
    strides = sorted({row["stride"] for row in grid})
    shapes = list(dict.fromkeys((row["height"], row["width"], row["num_frames"]) for row in grid))
    rates = {(row["height"], row["width"], row["num_frames"], row["stride"]): row["fps"] for row in grid}
    rest = [
        f"T = {row['num_frames']}, stride {row['stride']}, {row['height']}×{row['width']}, {row['num_kept']} "
        f"instances kept, {_count(row['streams'], 'stream')}: {row['fps']:.1f} frames/s"
        + (f", {row['fps_of_a_stream']:.1f} each" if row["streams"] > 1 else "")
        for row in found["rows"]
        if row not in grid
    ]
    return [
        "## What the speed depends on",
        "",
        f"Frames a second of the model ({ENGINES[found['engine']]}, {_count(found['threads'], 'thread')}, 20 "
        f"instances kept, one stream): resizing, cues, network, output, one after the other; without decoding, tracks and messages.{others(found)}",
        *table(
            ["input", "T", *(f"stride {stride}" for stride in strides)],
            [[f"{h}×{w}", str(T), *(f"{rates[h, w, T, s]:.1f}" for s in strides)] for h, w, T in shapes],
        ),
        *(f"- {line}" for line in rest),
        "",
    ]


def _engine(name: str) -> str:
    """The parts of a row's name, the engine's as a reader knows it."""
    return ", ".join(ENGINES.get(part, part) for part in name.split(", "))


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _count(number: int, what: str) -> str:
    return f"one {what}" if number == 1 else f"{number} {what}s"
