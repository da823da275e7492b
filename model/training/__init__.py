"""Training: losses, stages, data. Imports nothing beyond torch, numpy, scipy and cv2."""
