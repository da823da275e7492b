"""Sources of training clips: rendered sets, frozen videos, data sets on disk, and the pool of clips."""
