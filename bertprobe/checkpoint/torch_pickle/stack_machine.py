"""A pickle read as plain data: a stack machine that writes down what the opcodes say and never calls anything.

Source: the opcode descriptions in the standard library's `pickletools`. Where `pickle.Unpickler` would import a name or
call it, this machine keeps an inert note of it. No value from the file is hashed, compared or printed, as that takes
exponential time on nested tuples that share their items.

Bounds: a step takes time in proportion to the bytes it reads, and there are at most `MAX_STEPS`. What one byte can make
is small (a place on the stack, 8 bytes, or an object of at most 120), and of objects there are at most
`SPARE_OBJECTS` and one for every `BYTES_AN_OBJECT` bytes of the pickle, more than twice what a checkpoint has. With
what is written down of each object later, memory stays below 100 bytes for each byte of the pickle, and 100 MB.
"""

from __future__ import annotations

import codecs
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bertprobe.errors import printable

Value = Any
"""A string, number, tuple or list as the file has it, or one of the four notes below."""

MAX_PICKLE = 256 * 2**20
MAX_STEPS = 20_000_000  # a checkpoint of 100,000 tensors with an optimizer's state takes some 15 million
SPARE_OBJECTS = 250_000
BYTES_AN_OBJECT = 4  # a checkpoint has one in 9 bytes or more
MAX_GLOBAL = 1_000  # characters of a module's name, and of a name in it


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A name the pickle would import."""

    module: str
    name: str

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Persistent:
    """Something that lies outside the pickle, under an identifier."""

    key: Value


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Dict:
    """A dictionary as the pairs it was filled with, in order; of equal keys the last counts."""

    pairs: list[tuple[Value, Value]]


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """A call that the pickle asks for and nobody makes, and what it would put into the result.

    `creates` tells an instance of a class (NEWOBJ, OBJ, INST) from the result of any function (REDUCE).
    """

    function: Value
    args: Value
    creates: bool
    state: Value = None
    pairs: list[tuple[Value, Value]] | tuple[()] = ()
    items: list[Value] | tuple[()] = ()


class Malformed(Exception):
    """Bytes that are no pickle; `needs` is how many might have made them one, None if no more would help."""

    def __init__(self, reason: str, needs: int | None = None) -> None:
        super().__init__(printable(reason[:100]))
        self.needs = needs


@dataclass(frozen=True, slots=True)
class Pickle:
    """The value of one pickle, every persistent identifier and call in it, in order, and where it starts and ends.

    The calls count that the value does not lead to: a reader makes them all, and one may change what another made.
    """

    value: Value
    persistent: list[Persistent]
    calls: list[Call]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of it."""
        return self.end - self.start


def interpret(data: bytes, start: int = 0) -> Pickle:
    """The pickle that starts at one of the bytes; raises `Malformed` and nothing else."""
    machine = _Machine(data, start)
    try:
        with warnings.catch_warnings():
            # Undoing string escapes, Python warns of odd ones as if they stood in somebody's program.
            warnings.simplefilter("ignore", DeprecationWarning)
            value = machine.run()
    except IndexError as error:
        raise Malformed("an instruction finds nothing to work on") from error
    except ValueError as error:
        raise Malformed(str(error)) from error
    return Pickle(value, machine.persistent, machine.calls, start, machine.at)


class _Machine:
    """The bytes and the place in them, the stack, the stacks set aside by MARK, and the memo."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.start = self.at = start
        self.stack: list[Value] = []
        self.aside: list[list[Value]] = []
        self.memo = _Memo()
        self.persistent: list[Persistent] = []
        self.calls: list[Call] = []
        self.steps = 0
        self.objects = 0
        self.allowed = SPARE_OBJECTS

    def run(self) -> Value:
        """What is on top of the stack when STOP comes."""
        data, end = self.data, len(self.data)
        while self.at < end:
            opcode = data[self.at]
            self.at += 1
            if opcode == STOP:
                return self.stack.pop()
            self.spend(1)
            step = _STEPS[opcode]
            if step is None:
                raise Malformed(f"the byte {opcode:#04x} is no instruction of a file")
            step(self)
        raise Malformed("it ends before it is complete", needs=end + 1)

    # ---- What it reads ----

    def take(self, size: int) -> bytes:
        """The next so many bytes."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise Malformed("it ends before it is complete", needs=self.at)
        return self.data[start : self.at]

    def number(self, size: int) -> int:
        """The next so many bytes as an unsigned number."""
        return int.from_bytes(self.take(size), "little")

    def line(self) -> bytes:
        """The bytes up to the next line end."""
        stop = self.data.find(b"\n", self.at)
        if stop < 0:
            raise Malformed("it ends before it is complete", needs=len(self.data) + 1)
        start, self.at = self.at, stop + 1
        return self.data[start:stop]

    # ---- What it holds ----

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise Malformed(f"it takes more than {MAX_STEPS:,} steps")

    def count_object(self) -> None:
        self.objects += 1
        if self.objects > self.allowed:
            self.allowed = SPARE_OBJECTS + (self.at - self.start) // BYTES_AN_OBJECT
            if self.objects > self.allowed:
                raise Malformed(f"it makes {self.objects:,} objects of {self.at - self.start:,} bytes")

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def push_new(self, value: Value) -> None:
        self.count_object()
        self.stack.append(value)

    def push_call(self, function: Value, args: Value, creates: bool) -> None:
        self.calls.append(Call(function, args, creates))
        self.push_new(self.calls[-1])

    def pop(self) -> Value:
        return self.stack.pop()

    def pop_mark(self) -> list[Value]:
        items = self.stack
        self.stack = self.aside.pop()
        return items


class _Memo:
    """What was stored under numbers: in a list, as a pickle stores one after the other, and beside it what does not."""

    def __init__(self) -> None:
        self._dense: list[Value] = []
        self._sparse: dict[int, Value] = {}

    def __len__(self) -> int:
        return len(self._dense) + len(self._sparse)

    def __setitem__(self, at: int, value: Value) -> None:
        if at == len(self._dense):
            self._dense.append(value)
            if self._sparse:
                self._sparse.pop(at, None)
        elif 0 <= at < len(self._dense):
            self._dense[at] = value
        elif at < 0:
            raise Malformed("it stores something under a negative number")
        else:
            self._sparse[at] = value

    def __getitem__(self, at: int) -> Value:
        if 0 <= at < len(self._dense):
            return self._dense[at]
        if at not in self._sparse:
            raise Malformed("it refers to something it has not stored")
        return self._sparse[at]


# ---- Numbers and text ----


def _float(machine: _Machine) -> None:
    machine.push(struct.unpack(">d", machine.take(8))[0])


def _signed(machine: _Machine, width: int) -> None:
    """A number of four bytes, or one of as many as the bytes before it say."""
    size = int.from_bytes(machine.take(width), "little", signed=width == 4)
    if size < 0:
        raise Malformed("a number has a negative length")
    machine.push(int.from_bytes(machine.take(size), "little", signed=True))


def _decimal(machine: _Machine) -> None:
    line = machine.line()
    machine.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))


def _text(machine: _Machine, width: int) -> None:
    machine.push(str(machine.take(machine.number(width)), "utf-8", "surrogatepass"))


def _old_text(machine: _Machine, width: int) -> None:
    """A string of Python 2, whose bytes torch takes for UTF-8."""
    data = machine.take(machine.number(width))
    try:
        machine.push(str(data, "utf-8"))
    except UnicodeDecodeError:
        machine.push(str(data, "latin-1"))


def _quoted(machine: _Machine) -> None:
    line = machine.line()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1] != line[0]:
        raise Malformed("a string is not in quotes")
    machine.push(codecs.escape_decode(line[1:-1])[0].decode("ascii"))


def _bytes(machine: _Machine, width: int) -> None:
    machine.push(machine.take(machine.number(width)))


# ---- The stack and the memo ----


def _mark(machine: _Machine) -> None:
    machine.count_object()
    machine.aside.append(machine.stack)
    machine.stack = []


def _drop(machine: _Machine) -> None:
    if machine.stack:
        machine.pop()
    else:
        machine.pop_mark()


def _put(machine: _Machine, at: int) -> None:
    machine.memo[at] = machine.stack[-1]


def _get(machine: _Machine, at: int) -> None:
    machine.push(machine.memo[at])


# ---- Containers ----


def _tuple(machine: _Machine, size: int) -> None:
    stack = machine.stack
    if len(stack) < size:
        raise IndexError
    items = tuple(stack[-size:])
    del stack[-size:]
    machine.push_new(items)


def _pairs(items: list[Value]) -> list[tuple[Value, Value]]:
    if len(items) % 2:
        raise Malformed("a dictionary has a key without a value")
    return list(zip(items[::2], items[1::2], strict=True))


def _set_items(machine: _Machine, items: list[Value]) -> None:
    target = machine.stack[-1]
    if isinstance(target, Call):
        target.pairs = target.pairs or []
    elif not isinstance(target, Dict):
        raise Malformed("it sets a key of something that is not a dictionary")
    target.pairs.extend(_pairs(items))


def _append(machine: _Machine, items: list[Value]) -> None:
    target = machine.stack[-1]
    if isinstance(target, Call):
        target.items = target.items or []
        target.items.extend(items)
    elif isinstance(target, list):
        target.extend(items)
    else:
        raise Malformed("it appends to something that is not a list")


# ---- What is imported, called or lies elsewhere ----


def _push_global(machine: _Machine, module: str, name: str) -> None:
    if len(module) > MAX_GLOBAL or len(name) > MAX_GLOBAL:
        raise Malformed(f"a name to import has more than {MAX_GLOBAL:,} characters")
    machine.push_new(Global(module, name))


def _global(machine: _Machine) -> None:
    _push_global(machine, str(machine.line(), "utf-8"), str(machine.line(), "utf-8"))


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if type(name) is not str or type(module) is not str:
        raise Malformed("a name to import is not a string")
    _push_global(machine, module, name)


def _reduce(machine: _Machine) -> None:
    args, function = machine.pop(), machine.pop()
    pairs = _ordered_dict(machine, function, args)
    if pairs is None:
        machine.push_call(function, args, creates=False)
    else:
        machine.push_new(Dict(pairs))


def _ordered_dict(machine: _Machine, function: Value, args: Value) -> list[tuple[Value, Value]] | None:
    """The pairs that a call of OrderedDict starts with: none, or those of a list, as Python 2 wrote it."""
    if not isinstance(function, Global) or function.path != "collections.OrderedDict" or type(args) is not tuple:
        return None
    if not args:
        return []
    if len(args) != 1 or type(args[0]) is not list:
        return None
    machine.spend(len(args[0]))  # the one step that copies: a short file could ask for it again and again
    pairs = []
    for pair in args[0]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return None
        machine.count_object()
        pairs.append((pair[0], pair[1]))
    return pairs


def _new(machine: _Machine) -> None:
    args, function = machine.pop(), machine.pop()
    machine.push_call(function, args, creates=True)


def _new_with_keywords(machine: _Machine) -> None:
    keywords, args, function = machine.pop(), machine.pop(), machine.pop()
    machine.push_call(function, (args, keywords), creates=True)


def _obj(machine: _Machine) -> None:
    function, *args = machine.pop_mark() or [None]
    machine.push_call(function, tuple(args), creates=True)


def _inst(machine: _Machine) -> None:
    args = tuple(machine.pop_mark())
    _global(machine)
    machine.push_call(machine.pop(), args, creates=True)


def _build(machine: _Machine) -> None:
    state, target = machine.pop(), machine.stack[-1]
    if isinstance(target, Call):
        target.state = state
    elif not isinstance(target, Dict):  # an OrderedDict has attributes that matter to nobody
        raise Malformed("it sets attributes of something that has none")


def _persistent(machine: _Machine, key: Value) -> None:
    machine.persistent.append(Persistent(key))
    machine.push_new(machine.persistent[-1])


_SET, _FROZENSET = Global("builtins", "set"), Global("builtins", "frozenset")


def _skip(machine: _Machine, size: int) -> None:
    machine.take(size)


# ---- The opcodes ----

STOP = ord(".")
_OPCODES: dict[bytes, Callable[[_Machine], None]] = {
    b"N": lambda machine: machine.push(None),
    b"\x88": lambda machine: machine.push(True),
    b"\x89": lambda machine: machine.push(False),
    b")": lambda machine: machine.push(()),
    # Numbers and text.
    b"K": lambda machine: machine.push(machine.number(1)),
    b"M": lambda machine: machine.push(machine.number(2)),
    b"J": lambda machine: machine.push(int.from_bytes(machine.take(4), "little", signed=True)),
    b"G": _float,
    b"\x8a": partial(_signed, width=1),
    b"\x8b": partial(_signed, width=4),
    b"I": _decimal,
    b"L": lambda machine: machine.push(int(machine.line().removesuffix(b"L"))),
    b"F": lambda machine: machine.push(float(machine.line())),
    b"\x8c": partial(_text, width=1),
    b"X": partial(_text, width=4),
    b"\x8d": partial(_text, width=8),
    b"U": partial(_old_text, width=1),
    b"T": partial(_old_text, width=4),
    b"S": _quoted,
    b"V": lambda machine: machine.push(str(machine.line(), "raw-unicode-escape")),
    b"C": partial(_bytes, width=1),
    b"B": partial(_bytes, width=4),
    b"\x8e": partial(_bytes, width=8),
    b"\x96": partial(_bytes, width=8),
    # The stack and the memo.
    b"(": _mark,
    b"0": _drop,
    b"1": lambda machine: machine.pop_mark().clear(),
    b"2": lambda machine: machine.push(machine.stack[-1]),
    b"q": lambda machine: _put(machine, machine.number(1)),
    b"r": lambda machine: _put(machine, machine.number(4)),
    b"p": lambda machine: _put(machine, int(machine.line())),
    b"\x94": lambda machine: _put(machine, len(machine.memo)),
    b"h": lambda machine: _get(machine, machine.number(1)),
    b"j": lambda machine: _get(machine, machine.number(4)),
    b"g": lambda machine: _get(machine, int(machine.line())),
    # Containers.
    b"\x85": partial(_tuple, size=1),
    b"\x86": partial(_tuple, size=2),
    b"\x87": partial(_tuple, size=3),
    b"t": lambda machine: machine.push_new(tuple(machine.pop_mark())),
    b"]": lambda machine: machine.push_new([]),
    b"l": lambda machine: machine.push_new(machine.pop_mark()),
    b"a": lambda machine: _append(machine, [machine.pop()]),
    b"e": lambda machine: _append(machine, machine.pop_mark()),
    b"\x90": lambda machine: _append(machine, machine.pop_mark()),
    b"}": lambda machine: machine.push_new(Dict([])),
    b"d": lambda machine: machine.push_new(Dict(_pairs(machine.pop_mark()))),
    b"s": lambda machine: _set_items(machine, [machine.pop(), machine.pop()][::-1]),
    b"u": lambda machine: _set_items(machine, machine.pop_mark()),
    b"\x8f": lambda machine: machine.push_new(Call(_SET, (), creates=True)),
    b"\x91": lambda machine: machine.push_new(Call(_FROZENSET, (), creates=True, items=machine.pop_mark())),
    # What is imported, called or lies elsewhere.
    b"c": _global,
    b"\x93": _stack_global,
    b"\x82": lambda machine: _push_global(machine, "copyreg", f"extension {machine.number(1)}"),
    b"\x83": lambda machine: _push_global(machine, "copyreg", f"extension {machine.number(2)}"),
    b"\x84": lambda machine: _push_global(machine, "copyreg", f"extension {machine.number(4)}"),
    b"R": _reduce,
    b"\x81": _new,
    b"\x92": _new_with_keywords,
    b"o": _obj,
    b"i": _inst,
    b"b": _build,
    b"P": lambda machine: _persistent(machine, str(machine.line(), "ascii")),
    b"Q": lambda machine: _persistent(machine, machine.pop()),
    # What only helps a reader: the protocol, the length of what follows, whether a buffer may be written to.
    b"\x80": partial(_skip, size=1),
    b"\x95": partial(_skip, size=8),
    b"\x98": partial(_skip, size=0),
}
_STEPS = [_OPCODES.get(bytes([opcode])) for opcode in range(256)]
