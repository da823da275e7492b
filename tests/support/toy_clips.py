"""Clips of a few moving discs and bars on noise: a set that a tiny network learns in a minute."""

from __future__ import annotations

import cv2
import numpy as np

from model.training.data.clip import TrainingClip


class ToyClips:
    """Clip `index` of a small fixed number of clips, two objects each, 64×96 pixels."""

    def __init__(self, *, num_clips: int = 4, height: int = 64, width: int = 96, num_cues: int = 1) -> None:
        self.num_clips = num_clips
        self.height, self.width, self.num_cues = height, width, num_cues

    def __call__(self, index: int, *, num_frames: int) -> TrainingClip:
        random = np.random.default_rng(index % self.num_clips)
        size = (self.height, self.width)
        background = random.integers(60, 120, (*size, 3), dtype=np.uint8)
        images, masks = [], np.zeros((2, num_frames, *size), np.bool_)
        starts = np.array([[24, 18], [self.width - 26, self.height - 18]]) + random.integers(-6, 7, (2, 2))
        speeds = random.integers(-3, 4, (2, 2))
        colours = random.integers(150, 256, (2, 3))
        for frame in range(num_frames):
            image = background.copy()
            for which in range(2):
                mask = np.zeros(size, np.uint8)
                x, y = (int(value) for value in starts[which] + speeds[which] * frame)
                if which == 0:
                    cv2.circle(mask, (x, y), 11, 1, -1)
                else:
                    cv2.rectangle(mask, (x - 14, y - 9), (x + 14, y + 9), 1, -1)
                image[mask > 0] = colours[which]
                masks[which, frame] = mask > 0
                masks[1 - which, frame] &= mask == 0
            images.append(image)
        cues = np.zeros((num_frames, self.num_cues, *size), np.float32) if self.num_cues else None
        return TrainingClip(np.stack(images), masks, np.zeros(2, np.int64), cues)
