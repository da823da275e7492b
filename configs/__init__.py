"""The shipped configs: a package, so that they are found wherever the project is installed."""
