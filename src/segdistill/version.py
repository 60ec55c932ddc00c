"""The version of this package, apart from everything else so that it can be read without importing torch."""

__version__ = "0.1.0"
