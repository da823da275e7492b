"""Tensor operations of the system: they know no video, no model and no files.

Everything is exported lazily: a program that only decodes masks (`ops.CropRLE`) loads neither torch nor cv2.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ops.lazy import lazy_exports

if TYPE_CHECKING:
    from ops.boxes import (
        box_area,
        box_cxcywh_to_xyxy,
        box_iou,
        box_xyxy_to_cxcywh,
        generalized_box_iou,
    )
    from ops.deform_attn import deform_attn
    from ops.fit import Fit
    from ops.masks import crop_masks
    from ops.preprocess import fit_image
    from ops.rle import CropRLE, encode_crop

__all__ = [
    "CropRLE",
    "Fit",
    "box_area",
    "box_cxcywh_to_xyxy",
    "box_iou",
    "box_xyxy_to_cxcywh",
    "crop_masks",
    "deform_attn",
    "encode_crop",
    "fit_image",
    "generalized_box_iou",
]

_MODULE_OF = {
    "CropRLE": "ops.rle",
    "Fit": "ops.fit",
    "box_area": "ops.boxes",
    "box_cxcywh_to_xyxy": "ops.boxes",
    "box_iou": "ops.boxes",
    "box_xyxy_to_cxcywh": "ops.boxes",
    "crop_masks": "ops.masks",
    "deform_attn": "ops.deform_attn",
    "encode_crop": "ops.rle",
    "fit_image": "ops.preprocess",
    "generalized_box_iou": "ops.boxes",
}


class _Package(ModuleType):
    """Keeps `ops.deform_attn` the function: importing the submodule would bind that name to the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _MODULE_OF:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


__getattr__, __dir__ = lazy_exports(globals(), _MODULE_OF)
