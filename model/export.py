"""The documented path of exported networks: `model.export.load_exported`; the code is in `model.engines`."""

from __future__ import annotations

from model.engines.export import Exported, export_network, load_exported

__all__ = ["Exported", "export_network", "load_exported"]
