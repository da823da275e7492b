"""The part of the benchmarks' pages about cameras that are many or fail: metrics → Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table with an empty line before and after."""
    lines = [head, ["---"] * len(head), *rows]
    return ["", *("| " + " | ".join(line) + " |" for line in lines), ""]


def cameras(found: Mapping[str, Any]) -> list[str]:
    """Lines of the section, from the JSON of bench_cameras; parts that were not run are left out."""
    others = found["others_cores"]
    busy = "" if others is None else f" Other programs kept {others:.2f} cores busy meanwhile."
    lines = [
        "## Many cameras, and cameras that fail",
        "",
        f"Scripted RTSP cameras, 640×360 H.264 at {found['fps']:g} pictures a second, in a process of their own; "
        f"a model that finds nothing at once; best of {found['rounds']} runs of {found['seconds']:g} s. A cadence "
        "is what was published of what the camera sent in the same seconds; it is above 100 % where what waited "
        f"is caught up with.{busy}",
    ]
    if "many" in found:
        lines += _many(found["many"])
    if "faults" in found:
        lines += _faults(found["faults"])
    if "latest" in found:
        lines += _latest(found["latest"])
    if "returns" in found:
        lines += _returns(found["returns"])
    return lines


def _many(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return table(
        [
            f"{rows[0]['cameras']} cameras",
            "worst cadence",
            "median",
            "cameras below 95 %",
            "worst of all runs",
            "cores busy",
            "of the peer's",
        ],
        [
            [
                row["name"],
                f"{row['worst_percent']:.0f} %",
                f"{row['median_percent']:.0f} %",
                str(row["below_target"]),
                f"{row['worst_of_all_runs_percent']:.0f} %",
                f"{row['cores']:.2f}",
                f"{row['cores_of_peers']:.1f}×" if "cores_of_peers" in row else "",
            ]
            for row in rows
        ],
    )


def _faults(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{rows[0]['cameras']} such cameras and one more that is bad; the cadence of the good ones:",
        *table(
            ["the bad one", "worst cadence", "median", "worst of all runs", "cores busy"],
            [
                [
                    row["name"],
                    f"{row['worst_percent']:.0f} %",
                    f"{row['median_percent']:.0f} %",
                    f"{row['worst_of_all_runs_percent']:.0f} %",
                    f"{row['cores']:.2f}",
                ]
                for row in rows
            ],
        ),
    ]


def _latest(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"Age of what `latest()` returns, from the decoded picture on, one camera at {rows[0]['fps']:g} pictures "
        "a second, 10 masks a picture, over loopback:",
        *table(
            ["reader", "p50 ms", "p99", "p99 beyond the frame interval", "worst"],
            [
                [
                    row["name"],
                    *(
                        f"{row[key]:.0f}"
                        for key in ("p50_ms", "p99_ms", "beyond_interval_p99_ms", "worst_ms")
                    ),
                ]
                for row in rows
            ],
        ),
    ]


def _returns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        "All cameras lose power at once and get it back, each joined somewhere between two key pictures. The bound "
        "is the longest pause, the slowest opening by PyAV in the same run and one interval of key pictures:",
        *table(
            ["cameras", "returns", "median s", "worst s", "bound s", "worst of bound"],
            [
                [
                    row["name"],
                    str(row["returns"]),
                    f"{row['median_seconds']:.1f}",
                    f"{row['worst_seconds']:.1f}",
                    f"{row['bound_seconds']:.1f}",
                    f"{row['worst_of_bound']:.2f}",
                ]
                for row in rows
            ],
        ),
    ]
