"""The version, on its own so that building a wheel need not start TensorFlow."""

__version__ = "0.4.0"
