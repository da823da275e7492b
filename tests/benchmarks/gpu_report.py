"""Check and time kernels and network on this machine's GPU.

    python tests/benchmarks/gpu_report.py [--parts PART,…] [--output FOLDER] [--device N] [--seconds S]
                                          [--original FILE] [--dcnv4] [--dry-run]

Parts: kernels (deformable attention), frames (pictures in, masks out), network (eager, under CUDA graphs), inductor.
Every case is a process of its own with a time limit, and a row is on the disk (`gpu-rows.jsonl`) as soon as it is
known: a case that fails, hangs or takes the process down costs itself alone. The page and its JSON are written again
after every case, and all ends within `--seconds`, 570 by default.

Needs torch with CUDA, numpy and CuPy, OpenCV for pictures and masks and pycocotools for masks; what is missing is
named on the page. `--dry-run` walks the same lines on the CPU, with kernels built by g++ and small sizes: its figures
mean nothing. Exit code 0: all checks passed; 1: a check failed or a case did not end (the page says which); 2: nothing
could be run, and why. `--original`: ms_deform_im2col_cuda.cuh of Deformable DETR; `--dcnv4`: DCNv4's installed package.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from benchmarks import gpu_kernels, gpu_network

from ops.cuda import CupyCompiler, DeformAttnKernels
from ops.kernel import Compiler, Run
from ops.launch import Launch

ROWS = "gpu-rows.jsonl"
SECONDS = 570.0
LEAST_SECONDS = 3.0
"""A case is not begun with less time left."""
DRY_SHAPE = "tiny"
DRY_LAYER = "tiny layer"

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]
"""(table of the report, row)."""


@dataclass(frozen=True)
class Setting:
    """Where cases run and what they are given."""

    index: int
    original: Path | None
    dcnv4: bool
    dry_folder: Path | None
    """Where a dry run keeps its kernels; None on a GPU."""

    @property
    def dry(self) -> bool:
        return self.dry_folder is not None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.dry else torch.device("cuda", self.index)

    def compiler(self) -> Compiler:
        """Raises RuntimeError where CuPy is missing."""
        return CupyCompiler() if self.dry_folder is None else partial(_compile_dry, self.dry_folder)


@dataclass(frozen=True)
class Case:
    """What one process does."""

    part: str
    name: str
    seconds: float
    """At most."""
    run: Callable[[Setting], Rows]


def _compile_dry(folder: Path, launch: Launch[Any], device: torch.device) -> Run:
    from support.kernel_shim import KernelShim

    return KernelShim([launch], folder)(launch, device)


def _checks(rows: Iterable[Row]) -> Rows:
    return (("checks", row) for row in rows)


# Kernels: deformable attention.


def kernel_checks(shape: str, setting: Setting) -> Rows:
    """All configurations of a shape; in a dry run one."""
    kernels = DeformAttnKernels(setting.compiler())
    chosen = [each for each in gpu_kernels.configs() if each[0].startswith(f"{shape}, ")]
    pyramids = gpu_kernels.PYRAMIDS
    if setting.dry:
        chosen, pyramids = chosen[:1], pyramids[1:2]
    return _checks(gpu_kernels.check(kernels, *each, setting.device, pyramids) for each in chosen)


def kernel_life(shape: str, size0: tuple[int, int], setting: Setting) -> Rows:
    """On another stream, in a graph, as an operator; the portable form."""
    kernels = DeformAttnKernels(setting.compiler())
    for check in (gpu_kernels.check_stream, gpu_kernels.check_graph):
        yield "checks", check(kernels, setting.device, shape, size0)
    if not setting.dry:  # without a GPU there is no operator on kernels
        yield "checks", gpu_kernels.check_operator(setting.device)
    yield "checks", gpu_kernels.check_portable(setting.device)


def kernel_times(layer: str, dtype: torch.dtype, setting: Setting) -> Rows:
    """A layer at references of an encoder, then at random ones, next to the peers that are given."""
    kernels, device = DeformAttnKernels(setting.compiler()), setting.device
    original = dcnv4 = None
    if setting.original is not None:
        original, row = gpu_kernels.check_original(setting.original, setting.compiler(), device)
        yield "checks", row
    if setting.dcnv4:
        dcnv4, row = gpu_kernels.check_dcnv4(device)
        yield "checks", row
    for references in get_args(gpu_kernels.References):
        row = gpu_kernels.time_layer(kernels, layer, dtype, device, original, dcnv4, references=references)
        yield "kernel_timings", row


# Frames: what surrounds the network.


def frame_checks(what: str, setting: Setting) -> Rows:
    """Pictures in, or masks out; what lacks a package is left out and named."""
    try:
        from benchmarks import gpu_frames
    except ModuleNotFoundError as exc:
        return iter([("left_out", {"what": "pictures and masks", "why": str(exc)})])
    small: dict[str, Any] = {}
    if what == "pictures":
        if setting.dry:
            small = {"dtypes": (torch.float16,), "sizes": (((9, 7), (12, 16)),), "size": (36, 50)}
        return _checks(gpu_frames.preprocess_checks(setting.compiler(), setting.device, **small))
    if setting.dry:
        pair = (torch.float16, torch.float32)
        small = {"dtypes": (pair,), "sources": ((48, 85),), "size": (72, 128)}
    return _with_pycocotools(_checks(gpu_frames.mask_checks(setting.compiler(), setting.device, **small)))


def frame_times(what: str, source: tuple[int, int], model: tuple[int, int], setting: Setting) -> Rows:
    """Ways of a picture into the model, or of masks out of it."""
    try:
        from benchmarks import gpu_frames
    except ModuleNotFoundError as exc:
        yield "left_out", {"what": f"times of {what}", "why": str(exc)}
        return
    timed = gpu_frames.time_preprocess if what == "pictures" else gpu_frames.time_masks

    def rows() -> Rows:
        yield "frame_timings", timed(setting.compiler(), setting.device, source, model)

    yield from _with_pycocotools(rows()) if what == "masks" else rows()


def _with_pycocotools(rows: Rows) -> Rows:
    """`rows`, or one that says that the package is missing."""
    if importlib.util.find_spec("pycocotools") is None:
        return iter([("left_out", {"what": "masks", "why": "No module named 'pycocotools'"})])
    return rows


# The network.

SMALL = replace(gpu_network.R50, num_queries=30, encoder_layers=2, decoder_layers=2, num_frames=2)


def network_check(name: str, case: gpu_network.Case, setting: Setting) -> Rows:
    """One of `gpu_network`'s checks."""
    yield "checks", getattr(gpu_network, name)(case, setting.device)


def network_against_cpu(setting: Setting) -> Rows:
    config = gpu_network.TINY if setting.dry else SMALL
    yield "checks", gpu_network.check_against_cpu(setting.device, config)


def network_times(case: gpu_network.Case, setting: Setting) -> Rows:
    seconds, least = (0.0, 2) if setting.dry else (3.0, 20)
    yield "network_timings", gpu_network.time_case(case, setting.device, seconds=seconds, least=least)


def cases(setting: Setting) -> list[Case]:
    """All cases of a report, the most telling ones of each part first."""
    if setting.dry:
        gpu_kernels.SHAPES[DRY_SHAPE] = (2, 8, 2, 2)
        gpu_kernels.LAYERS[DRY_LAYER] = (DRY_SHAPE, 1, (6, 8))
        shapes, layers = [DRY_SHAPE], [(DRY_LAYER, torch.float32)]
        life, sizes = (DRY_SHAPE, (6, 8)), [((72, 128), (24, 40))]
        first = gpu_network.Case("tiny", gpu_network.TINY, "eager", "fp32", num_kept=4)
        timed = [first, replace(first, num_streams=2), replace(first, precision="fp16")]
    else:
        shapes = list(gpu_kernels.SHAPES)
        dtypes = (torch.float16, torch.bfloat16, torch.float32)
        layers = [(layer, dtype) for layer in gpu_kernels.LAYERS for dtype in dtypes]
        life, sizes = ("R50", (45, 80)), [((1080, 1920), (360, 640)), ((720, 1280), (192, 320))]
        first, timed = gpu_network.CASES[0], list(gpu_network.CASES)
    found = [Case("kernels", f"checks of {shape}", 90, partial(kernel_checks, shape)) for shape in shapes]
    found.append(Case("kernels", "streams, graphs, the operator", 60, partial(kernel_life, *life)))
    for layer, dtype in layers:
        name = f"time of {layer}, {str(dtype).removeprefix('torch.')}"
        found.append(Case("kernels", name, 60, partial(kernel_times, layer, dtype)))
    for what in ("pictures", "masks"):
        found.append(Case("frames", f"checks of {what}", 60, partial(frame_checks, what)))
        for source, model in sizes:
            name = f"times of {what}, {source[1]}×{source[0]}"
            found.append(Case("frames", name, 60, partial(frame_times, what, source, model)))
    found.append(Case("network", "float32 against the CPU", 60, network_against_cpu))
    for name, case in (
        ("check_no_waiting", first),
        ("check_batch", replace(first, engine="eager", precision="fp32")),
        ("check_ring", replace(first, num_streams=1)),
        ("check_two_open", first),
    ):
        found.append(Case("network", name.replace("_", " "), 60, partial(network_check, name, case)))
    for case in timed:
        part = "inductor" if case.engine == "inductor" else "network"
        name = f"{case.model}, {case.num_streams} streams, {case.engine}, {case.precision}"
        found.append(Case(part, name, 240 if part == "inductor" else 60, partial(network_times, case)))
    return found


PARTS = ("kernels", "frames", "network", "inductor")


# A case in a process of its own.


def machine_rows(setting: Setting) -> Rows:
    """What the report is about; RuntimeError with the reason where there is nothing to report on."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    if setting.dry:
        yield "machine", {"device": "dry run", "machine": f"a CPU; {versions}; {date.today().isoformat()}"}
        return
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise RuntimeError(f"gpu-report needs an NVIDIA GPU: torch {torch.__version__}, {built}, sees none")
    count = torch.cuda.device_count()
    if setting.index >= count:
        raise RuntimeError(f"--device {setting.index}: this machine has {count} GPUs, counted from 0")
    try:
        setting.compiler()
    except RuntimeError as exc:
        raise RuntimeError(f"gpu-report needs CuPy: {exc}") from None
    properties = torch.cuda.get_device_properties(setting.index)
    yield (
        "machine",
        {
            "device": properties.name,
            "machine": f"{properties.name}, sm_{properties.major}{properties.minor}, "
            f"{properties.multi_processor_count} multiprocessors, {properties.total_memory / 2**30:.0f} GiB; "
            f"{versions}; {date.today().isoformat()}",
        },
    )


def _write_rows(case: Case, setting: Setting, path: Path) -> None:
    """The child's work: each row to the file, on the disk before the next is begun."""
    try:
        if not setting.dry and torch.cuda.is_available() and setting.index < torch.cuda.device_count():
            torch.cuda.set_device(setting.index)
        for table, row in case.run(setting):
            append_row(path, table, {"part": case.part, **row})
    except Exception as exc:  # a driver, a compiler, a package: the report goes on without this case
        if case.part != "machine":  # there the words are all
            traceback.print_exc()
        words = str(exc).splitlines() or [type(exc).__name__]
        append_row(path, "failed", {"part": case.part, "name": case.name, "why": words[0]})


def append_row(path: Path, table: str, row: Row) -> None:
    """One line of JSON, on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"table": table, **row}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def run_case(case: Case, setting: Setting, path: Path, *, seconds: float) -> None:
    """Run a case in a process; what it does not tell itself is told for it."""
    failed = partial(append_row, path, "failed")
    about = {"part": case.part, "name": case.name}
    limit = min(case.seconds, seconds)
    if limit < LEAST_SECONDS:
        failed({**about, "why": "no time was left"})
        return
    # Forked: torch is loaded once. This process never touches CUDA, which could not be forked.
    process = multiprocessing.get_context("fork").Process(target=_write_rows, args=(case, setting, path))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        failed({**about, "why": f"not ended after {limit:.0f} s"})
    elif process.exitcode:
        code = process.exitcode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        failed({**about, "why": f"its process died: {how}"})


def read_rows(path: Path) -> dict[str, list[Row]]:
    """Table → rows; a line that a dying process left half is no row."""
    tables: dict[str, list[Row]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        tables.setdefault(row.pop("table"), []).append(row)
    return tables


# The page.


def page(tables: dict[str, list[Row]]) -> str:
    """The report as Markdown."""
    about = tables["machine"][0]
    checks = tables.get("checks", [])
    wrong = [row for row in checks if not row["passed"]]
    notes = [
        *(
            f"- NOT CHECKED: {row['what']}, a package is missing ({row['why']})"
            for row in tables.get("left_out", [])
        ),
        *(f"- FAILED {row['name']}: {row.get('why') or format(row['error'], '.1e')}" for row in wrong),
        *(f"- NOT DONE {row['part']}, {row['name']}: {row['why']}" for row in tables.get("failed", [])),
    ]
    lines = [
        f"# Speed on {about['device']}",
        "",
        "Written by `make gpu-report` (`tests/benchmarks/gpu_report.py`). Ratios are within one run; what was predicted",
        "was computed for an H200 before any run.",
        "",
        f"Machine: {about['machine']}",
        "",
        f"Checks against float64 (runs of masks: for equality): {len(checks) - len(wrong)} of {len(checks)} passed.",
        "",
        *notes,
        *([""] if notes else []),
    ]
    if tables.get("kernel_timings"):
        lines += ["## Deformable attention, one encoder layer", ""]
        lines += gpu_kernels.page(tables["kernel_timings"])
    if tables.get("network_timings"):
        lines += ["## The network", "", *gpu_network.page(tables["network_timings"])]
    if tables.get("frame_timings"):
        from benchmarks import gpu_frames

        lines += ["## Around the network", "", *gpu_frames.page(tables["frame_timings"])]
    return "\n".join(lines)


def write_page(tables: dict[str, list[Row]], folder: Path) -> Path:
    """The page and its JSON; return the page's path."""
    slug = re.sub(r"[^a-z0-9]+", "-", tables["machine"][0]["device"].lower()).strip("-")
    target = folder / f"gpu-{slug}.md"
    target.write_text(page(tables), encoding="utf-8")
    target.with_suffix(".json").write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")
    return target


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "gpu", metavar="FOLDER")
    parser.add_argument("--device", type=int, default=0, metavar="N")
    parser.add_argument("--parts", default=",".join(PARTS), metavar="PART,…", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="for all together")
    parser.add_argument(
        "--original",
        type=Path,
        metavar="FILE",
        help="ms_deform_im2col_cuda.cuh of Deformable DETR, as a peer",
    )
    parser.add_argument("--dcnv4", action="store_true", help="DCNv4's package, which is installed, as a peer")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at small sizes: means nothing")
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"--parts: no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if options.original is not None and not options.original.is_file():
        parser.error(f"--original: no file {options.original}")
    return options


def main() -> int:
    began = time.monotonic()
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        dry = Path(folder) if options.dry_run else None
        setting = Setting(options.device, options.original, options.dcnv4, dry)
        return report(setting, options.parts, options.output, until=began + options.seconds)


def report(setting: Setting, parts: Sequence[str], output: Path, *, until: float) -> int:
    """Run all cases of the parts; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / ROWS
        run_case(Case("machine", "machine", 120, machine_rows), setting, first, seconds=120)
        tables = read_rows(first)
    if "machine" not in tables:
        print(*(row["why"] for row in tables["failed"]), sep="\n", file=sys.stderr)
        return 2
    output.mkdir(parents=True, exist_ok=True)
    path = output / ROWS
    path.unlink(missing_ok=True)
    append_row(path, "machine", tables["machine"][0])
    num_rows = 1
    for case in cases(setting):
        if case.part not in parts:
            continue
        print(f"{case.part}: {case.name}", flush=True)
        run_case(case, setting, path, seconds=until - time.monotonic())
        tables = read_rows(path)
        target = write_page(tables, output)
        lines = path.read_text(encoding="utf-8").splitlines()
        print(*(f"  {line}" for line in lines[num_rows:]), sep="\n", flush=True)
        num_rows = len(lines)
    print(f"wrote {target}")
    failed = tables.get("failed") or [row for row in tables.get("checks", []) if not row["passed"]]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
