"""TFDS builder `musdb18`."""
