"""Tensors, vectors and activations to files, whole or not at all."""

from bertprobe.export.files import Output
from bertprobe.export.tensors import Written, WrittenTensor, export

__all__ = ["Output", "Written", "WrittenTensor", "export"]
