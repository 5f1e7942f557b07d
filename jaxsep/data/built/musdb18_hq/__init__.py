"""TFDS builder `musdb18_hq`."""
