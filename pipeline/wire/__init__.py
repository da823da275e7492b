"""The mask stream's two ends, and the bytes between (docs/wire.md)."""
