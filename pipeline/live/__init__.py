"""Threads and queues: sources, inference and sinks composed into a running stream."""
