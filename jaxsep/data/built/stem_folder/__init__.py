"""TFDS builder `stem_folder`."""
