"""The version, below every room that writes it down; the package gives it out as `bertprobe.__version__`."""

__version__ = "0.1.0"
