"""Where scenes lie: what a scene is, its camera and crowd, where a point of it lies in the picture."""
