"""Built data sets: songs as records of one stem and second, in ArrayRecord files that TensorFlow Datasets describes.

`examples` makes the records of a song, `builder` and the folders below are TFDS builders of them, `build` writes a set
that can be continued where it was stopped, and `store` reads it, without TensorFlow.
"""
