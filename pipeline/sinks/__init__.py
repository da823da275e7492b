"""Who receives results: the mask stream, recordings, windows, the progress line."""
