"""Four CPU devices for everybody, no accelerator, and songs of the suite's own where a test needs data."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")

import jax

jax.config.update("jax_num_cpu_devices", 4)
