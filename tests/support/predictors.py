"""A model that costs nothing: what is left of a stream's time is the pipeline's own."""

from __future__ import annotations

import numpy as np

from ops.preprocess import fit_size
from pipeline.inference.predictor import ModelFacts
from pipeline.types import Window, WindowPrediction


class FixedPredictor:
    """Answers every window with the same `num_masks` ellipses on a grid, each with its own embedding."""

    def __init__(
        self,
        *,
        num_masks: int = 10,
        num_frames: int = 5,
        height: int = 192,
        width: int = 320,
        trained: bool = True,
    ) -> None:
        self.facts = ModelFacts(
            name="fixed",
            class_list="object",
            classes={0: (1, "object")},
            trained=trained,
            num_frames=num_frames,
        )
        self._size = (height, width)
        columns = max(1, round(np.sqrt(num_masks * width / height)))
        rows = max(1, -(-num_masks // columns))
        places = [((k % columns + 0.5) / columns, (k // columns + 0.5) / rows) for k in range(num_masks)]
        radius_x, radius_y = 0.4 / columns, 0.4 / rows
        y, x = np.mgrid[0 : height // 4, 0 : width // 4]
        x, y = (x + 0.5) / (width // 4), (y + 0.5) / (height // 4)
        logits = [
            8 * (1 - np.hypot((x - centre_x) / radius_x, (y - centre_y) / radius_y))
            for centre_x, centre_y in places
        ]
        stacked = np.array(logits, np.float32).reshape(num_masks, *x.shape)
        self._logits = np.repeat(stacked[:, None], num_frames, axis=1)
        boxes = [(cx, cy, 2 * radius_x, 2 * radius_y) for cx, cy in places]
        self._boxes = np.repeat(np.array(boxes, np.float32).reshape(-1, 1, 4), num_frames, axis=1)
        self._scores = np.full((num_masks, 1), 0.9, np.float32)
        self._embeddings = np.eye(num_masks, 96, dtype=np.float32)

    def predict(self, window: Window) -> WindowPrediction:
        """Return the fixed candidates, laid over the window's frame size."""
        frame = window.frames[-1]
        fit = fit_size(frame.height, frame.width, height=self._size[0], width=self._size[1])
        return WindowPrediction(
            scores=self._scores,
            boxes_xyxy=fit.boxes_to_source(self._boxes),
            mask_logits=self._logits,
            fit=fit,
            embeddings=self._embeddings,
        )

    def forget(self, source: str) -> None:
        """Nothing is kept."""
