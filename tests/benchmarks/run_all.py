"""Run every benchmark of this folder one after the other and write their metrics into one page.

    python tests/benchmarks/run_all.py --output FOLDER [--page docs/performance/cpu.md] [--only NAME …]
                                       [--peer-python PYTHON]

Each benchmark is a process of its own and writes JSON. With `--only` the others' JSON is taken as it lies in
the folder. A page is only written where asked: metrics that are committed come from a machine that does
nothing else. `--peer-python` is an interpreter that has the ultralytics package, for the peer in bench_live.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from benchmarks import live_page

BENCHMARKS = (
    "operator",
    "frame",
    "pipeline",
    "associate",
    "memory",
    "engines",
    "live",
    "stages",
    "scaling",
    "cameras",
)


def run(name: str, output: Path, *, arguments: Sequence[str] = ()) -> None:
    """Run one benchmark, its table going to the terminal, its JSON to `output`."""
    target = output / f"{name}.json"
    print(f"== {name}", flush=True)
    target.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"bench_{name}.py"), "--json", str(target), *arguments], check=False
    )
    if not target.exists():
        raise RuntimeError(f"bench_{name}.py ended with {done.returncode} and wrote no metrics")


def read(name: str, output: Path) -> Any:
    """A benchmark's JSON. Raises RuntimeError where it was not run."""
    target = output / f"{name}.json"
    if not target.exists():
        raise RuntimeError(f"{target} is not there: run bench_{name}.py too, or leave --only out")
    return json.loads(target.read_text())


def machine() -> str:
    """Processor, cores and versions in one line."""
    import torch

    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        processor = names[0] if names else processor
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{processor}, {os.cpu_count()} cores, {capability}; Python {platform.python_version()}, "
        f"torch {torch.__version__}; {date.today().isoformat()}"
    )


def page(metrics: dict[str, Any]) -> str:
    """Return the metrics as Markdown: ratios first, milliseconds as this machine's own."""
    operator, frame, pipeline = metrics["operator"]["forward"], metrics["frame"], metrics["pipeline"]
    associate, memory = metrics["associate"], metrics["memory"]
    lines = [
        "# Speed on the CPU",
        "",
        "Written by `make bench` (`tests/benchmarks/run_all.py --page`). Ratios are against a peer in the same run; "
        "milliseconds are this machine's.",
        "",
        f"Machine: {machine()}",
        "",
        "| what | metric | target |",
        "| --- | --- | --- |",
        "| `deform_attn`, compiled / `grid_sample` per level, encoder layer of 360×640 "
        f"| {operator['ratio']:.3f} of its time | ≤ 0.05 |",
        f"| the same, portable form | {operator['portable_ratio']:.3f} of its time | ≤ 0.15 |",
        f"| pipeline with a null model, 720p, 10 masks / decode + rgb24 | {pipeline['ratio']:.2f} of its fps | ≥ 0.8 |",
        f"| the same, publishing | {pipeline['ratio_published']:.2f} of its fps | |",
        "| stream with the per-frame cache, and the overlap that it allows / without, stride 1, eager "
        f"| {frame['gain']:.2f}× its fps | |",
        f"| default model from the demo file, stride 1 | {frame['fps']:.1f} frames/s | |",
        f"| resident memory after frame 500 of {memory['frames']} | {memory['growth_percent']:+.2f} % | ≤ 2 % |",
        "",
        f"## A frame of the default model (T = {frame['num_frames']}, stride 1, 192×320)",
        "",
        "| part | ms |",
        "| --- | --- |",
        *(f"| {name} | {value:.1f} |" for name, value in frame["network_ms"].items()),
        "",
        "`encode_frames` (backbone, input projections, the encoder's first deformable update) runs once a frame, "
        "`decode_window` (the rest) once a window.",
        "",
        "| stage in the stream | p50 ms | p95 ms |",
        "| --- | --- | --- |",
        *(f"| {name} | {value['p50']} | {value['p95']} |" for name, value in frame["stages_ms"].items()),
        "",
        "`queue` and `total` are those of a file: it waits in full queues.",
        "",
        "## Association, ms an update",
        "",
        "Masks of the new frame at 720p included; best of many, on one thread.",
        "",
        "| candidates | emission | best | median |",
        "| --- | --- | --- | --- |",
        *(
            f"| {r['candidates']} | {r['emission']} | {r['best_ms']:.2f} | {r['median_ms']:.2f} |"
            for r in associate
        ),
        "",
        *live_page.sections(metrics),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Run them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--page", type=Path, help="Markdown page to write")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS, metavar="NAME")
    parser.add_argument("--peer-python", metavar="PYTHON", default=sys.executable)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        run(name, args.output, arguments=("--peer-python", args.peer_python) if name == "live" else ())
    if args.page:
        metrics = {name: read(name, args.output) for name in BENCHMARKS}
        args.page.parent.mkdir(parents=True, exist_ok=True)
        args.page.write_text(page(metrics))
    return 0


if __name__ == "__main__":
    sys.exit(main())
