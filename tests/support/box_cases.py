"""Windows whose box terms a person can compute: one query's box against an instance's, frame by frame.

A frame is a letter, a window a string of letters. The query's box is cxcywh (0.3, 0.2, 0.2, 0.2), that is
x 0.2..0.4 and y 0.1..0.3, in every frame; the instance's box is, with what follows from the two:

    letter    cxcywh                  Σ|d|   Σd²     IoU           hull − union / hull       GIoU
    e(qual)   0.3, 0.2, 0.2, 0.2      0      0       1             0                         1
    s(hifted) 0.2, 0.2, 0.2, 0.2      0.1    0.01    0.02/0.06     0                         1/3
    w(ide)    0.3, 0.2, 0.4, 0.2      0.2    0.04    0.04/0.08     0                         1/2
    d(iagonal)0.2, 0.3, 0.2, 0.2      0.2    0.02    0.01/0.07     (0.09 − 0.07)/0.09        1/7 − 2/9 = −5/63
    f(ar)     0.7, 0.2, 0.2, 0.2      0.4    0.16    0             (0.12 − 0.08)/0.12        −1/3
    -         absent
"""

from __future__ import annotations

import math

import torch

from model.layers.decoder import LayerOutput
from model.training.targets import Target

QUERY_BOX = [0.3, 0.2, 0.2, 0.2]

BOXES = {
    "e": QUERY_BOX,
    "s": [0.2, 0.2, 0.2, 0.2],
    "w": [0.3, 0.2, 0.4, 0.2],
    "d": [0.2, 0.3, 0.2, 0.2],
    "f": [0.7, 0.2, 0.2, 0.2],
    "-": [0.0, 0.0, 0.0, 0.0],
}


def window_target(frames: str) -> Target:
    """One instance of label 1 with the boxes of the letters."""
    return Target(
        labels=torch.tensor([1]),
        boxes=torch.tensor([[BOXES[letter] for letter in frames]]),
        masks=torch.zeros(1, len(frames), 2, 2),
        present=torch.tensor([[letter != "-" for letter in frames]]),
    )


def window_output(frames: str) -> LayerOutput:
    """Two queries, two outputs. Scores: query 0 has 0.5 and 0.8, query 1 has 0.2 and 0.5."""
    logits = torch.tensor([[[0.0, math.log(4.0)], [-math.log(4.0), 0.0]]])
    boxes = torch.tensor(QUERY_BOX).expand(1, len(frames), 2, 4)
    return LayerOutput(torch.zeros(1, 2, 4), logits, boxes, boxes[..., :2])
