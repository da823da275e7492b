"""The live part: sources, windows, association, the mask stream.

Exports load on first use, so that `from pipeline import Subscriber` needs neither torch nor av nor cv2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.lazy import lazy_exports

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


__getattr__, __dir__ = lazy_exports(globals(), _EXPORTS)
