"""The network run over a stream: its halves, eager, compiled or captured, kept features, engines on disk."""
