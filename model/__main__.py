"""`python -m model <verb>`: work on files of weights and of results.

Exit code 0 when done, 1 for bad arguments or files; of `adapt`, which `python -m pipeline` runs, 2 for a
source that cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from model.errors import ModelError
from model.verbs.engines import compile_engine, export
from model.verbs.evaluation import evaluate
from model.verbs.handed_over import adapt
from model.verbs.training import data_freeze, data_preview, figures, photos, train
from model.verbs.weights import blend, convert, import_detector, show

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
