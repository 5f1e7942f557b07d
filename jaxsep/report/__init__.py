"""Curves, spectrogram panels and the page that shows a run."""
