"""Rendered clips: scene descriptions, the renderer, and the sets that are drawn from them."""
