"""Sources over bytes, for the thousands of files that property tests need."""

from __future__ import annotations

from bertprobe.checkpoint import source
from bertprobe.errors import CorruptFile, NotFound


class Memory:
    """A file that lies in memory."""

    name = address = "memory.bin"
    max_parallel = 1

    def __init__(self, data: bytes) -> None:
        self.data, self.size, self.bytes_read = data, len(data), 0

    def read(self, start: int, stop: int) -> bytes:
        if not 0 <= start <= stop <= self.size:
            raise CorruptFile(f"{self.size} bytes, {start} to {stop} are asked for", "fetch it again")
        self.bytes_read += stop - start
        return self.data[start:stop]

    def load(self, start: int, stop: int, memory: source.Memory | None = None) -> memoryview:
        data = self.read(start, stop)
        buffer = (memory or source.fresh)(len(data))
        buffer[:] = data
        return buffer

    def sibling(self, name: str) -> Memory:
        raise NotFound(f"there is nothing beside {self.name}", "name another file")

    def check_unchanged(self) -> None:
        """Nobody else has it."""


class Counting(Memory):
    """A file that counts how often it is asked."""

    reads = 0

    def read(self, start: int, stop: int) -> bytes:
        self.reads += 1
        return super().read(start, stop)
