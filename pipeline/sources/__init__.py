"""Where frames come from: files, cameras, streams, image folders, the demo."""
