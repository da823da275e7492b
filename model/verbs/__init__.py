"""The verbs of `python -m model`: what each takes and calls; all else is imported when one is run."""
