"""The argument parser of every command: wrong arguments end with exit code 1 (2 means a lost source)."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse, but for the exit code."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end with exit code 1."""
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: error: {message}\n")
