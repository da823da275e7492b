"""The live part: sources, windows, association, the mask stream.

Exports load on first use, so that `from pipeline import Subscriber` needs neither torch nor av nor cv2.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config import StreamConfig as StreamConfig
    from pipeline.config_file import load_config as load_config
    from pipeline.errors import StreamError as StreamError
    from pipeline.live.stream import Stream as Stream
    from pipeline.types import FrameResult as FrameResult
    from pipeline.types import Instance as Instance
    from pipeline.types import MaskMessage as MaskMessage
    from pipeline.wire.subscriber import Subscriber as Subscriber

_EXPORTS = {
    "FrameResult": "pipeline.types",
    "Instance": "pipeline.types",
    "MaskMessage": "pipeline.types",
    "Stream": "pipeline.live.stream",
    "StreamConfig": "pipeline.config",
    "StreamError": "pipeline.errors",
    "Subscriber": "pipeline.wire.subscriber",
    "load_config": "pipeline.config_file",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}") from None
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
