"""The documented path of the runtime: `model.runtime.Runtime`; the code is in `model.engines`."""

from __future__ import annotations

from model.engines.runtime import Runtime

__all__ = ["Runtime"]
