"""A pickle read as plain data: a stack machine that writes down what the opcodes say and never calls anything.

Source: the opcode descriptions in the standard library's `pickletools`, which also does the lexical part. Where
`pickle.Unpickler` would import a name or call it, this machine keeps an inert note of it. No value from the file is
hashed, compared or printed, as that takes exponential time on nested tuples that share their items.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from bertprobe.errors import printable

Value = Any
"""A string, number, tuple or list as the file has it, or one of the four notes below."""

MAX_PICKLE = 256 * 2**20
MAX_STEPS = 20_000_000  # a checkpoint of 100,000 tensors with an optimizer's state takes some 15 million


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
    pairs: list[tuple[Value, Value]] = field(default_factory=list)
    items: list[Value] = field(default_factory=list)


class Malformed(Exception):
    """Bytes that are no pickle; `ended` when more bytes might have made them one."""

    def __init__(self, reason: str, ended: bool = False) -> None:
        super().__init__(printable(reason[:100]))
        self.ended = ended


@dataclass(frozen=True, slots=True)
class Pickle:
    """The value of one pickle and every persistent identifier in it, in order."""

    value: Value
    persistent: list[Persistent]


def interpret(stream: BytesIO) -> Pickle:
    """The next pickle of a stream, which is left at the byte after it; raises `Malformed` and nothing else."""
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # The lexer undoes string escapes, and Python warns of odd ones as if they stood in somebody's program.
            warnings.simplefilter("ignore", DeprecationWarning)
            for opcode, arg, _ in pickletools.genops(stream):
                machine.step(opcode.name, arg)
        return Pickle(machine.pop(), machine.persistent)
    except IndexError as error:
        raise Malformed("an instruction finds nothing to work on") from error
    except ValueError as error:
        raise Malformed(str(error), ended=stream.tell() >= stream.getbuffer().nbytes) from error


class _Machine:
    """The stack, the stacks set aside by MARK, and the memo."""

    def __init__(self) -> None:
        self.stack: list[Value] = []
        self.aside: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.persistent: list[Persistent] = []
        self.steps = 0

    def step(self, name: str, arg: Any) -> None:
        self.spend(1)
        if name in _STEPS:
            _STEPS[name](self, arg)
        elif name in _CONSTANTS:
            self.push(_CONSTANTS[name])
        elif arg is not None:  # a number or a string
            self.push(arg)
        else:
            raise Malformed(f"{name} does not belong in a file")

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise Malformed(f"it takes more than {MAX_STEPS:,} steps")

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def pop(self) -> Value:
        return self.stack.pop()

    def pop_mark(self) -> list[Value]:
        items = self.stack
        self.stack = self.aside.pop()
        return items


def _mark(machine: _Machine, arg: Any) -> None:
    machine.aside.append(machine.stack)
    machine.stack = []


def _drop(machine: _Machine, arg: Any) -> None:
    if machine.stack:
        machine.pop()
    else:
        machine.pop_mark()


def _put(machine: _Machine, arg: int) -> None:
    machine.memo[arg] = machine.stack[-1]


def _memoize(machine: _Machine, arg: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: _Machine, arg: int) -> None:
    if arg not in machine.memo:
        raise Malformed("it refers to something it has not stored")
    machine.push(machine.memo[arg])


def _tuple(machine: _Machine, size: int) -> None:
    items = [machine.pop() for _ in range(size)]
    machine.push(tuple(reversed(items)))


def _pairs(items: list[Value]) -> list[tuple[Value, Value]]:
    if len(items) % 2:
        raise Malformed("a dictionary has a key without a value")
    return list(zip(items[::2], items[1::2], strict=True))


def _set_items(machine: _Machine, items: list[Value]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, Dict | Call):
        raise Malformed("it sets a key of something that is not a dictionary")
    target.pairs.extend(_pairs(items))


def _append(machine: _Machine, items: list[Value]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list | Call):
        raise Malformed("it appends to something that is not a list")
    (target if isinstance(target, list) else target.items).extend(items)


def _global(machine: _Machine, arg: str) -> None:
    module, _, name = arg.partition(" ")
    machine.push(Global(module, name))


def _stack_global(machine: _Machine, arg: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if type(name) is not str or type(module) is not str:
        raise Malformed("a name to import is not a string")
    machine.push(Global(module, name))


def _reduce(machine: _Machine, arg: Any) -> None:
    args, function = machine.pop(), machine.pop()
    pairs = _ordered_dict(machine, function, args)
    machine.push(Call(function, args, creates=False) if pairs is None else Dict(pairs))


def _ordered_dict(machine: _Machine, function: Value, args: Value) -> list[tuple[Value, Value]] | None:
    """The pairs that a call of OrderedDict starts with: none, or those of a list, as Python 2 wrote it."""
    if not isinstance(function, Global) or function.path != "collections.OrderedDict" or type(args) is not tuple:
        return None
    if not args:
        return []
    if len(args) != 1 or type(args[0]) is not list:
        return None
    machine.spend(len(args[0]))  # the one step that copies: a short file could ask for it again and again
    pairs = [tuple(pair) for pair in args[0] if isinstance(pair, list | tuple) and len(pair) == 2]
    return pairs if len(pairs) == len(args[0]) else None


def _new(machine: _Machine, arg: Any) -> None:
    args, function = machine.pop(), machine.pop()
    machine.push(Call(function, args, creates=True))


def _new_with_keywords(machine: _Machine, arg: Any) -> None:
    keywords, args, function = machine.pop(), machine.pop(), machine.pop()
    machine.push(Call(function, (args, keywords), creates=True))


def _obj(machine: _Machine, arg: Any) -> None:
    function, *args = machine.pop_mark() or [None]
    machine.push(Call(function, tuple(args), creates=True))


def _inst(machine: _Machine, arg: str) -> None:
    args = tuple(machine.pop_mark())
    _global(machine, arg)
    machine.push(Call(machine.pop(), args, creates=True))


def _build(machine: _Machine, arg: Any) -> None:
    state, target = machine.pop(), machine.stack[-1]
    if isinstance(target, Call):
        target.state = state


def _persistent(machine: _Machine, key: Value) -> None:
    machine.persistent.append(Persistent(key))
    machine.push(machine.persistent[-1])


def _set_of(name: str, items: list[Value]) -> Call:
    return Call(Global("builtins", name), (), creates=True, items=items)


_CONSTANTS: dict[str, Value] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP", "READONLY_BUFFER"), lambda machine, arg: None),
    "MARK": _mark,
    "POP": _drop,
    "POP_MARK": lambda machine, arg: machine.pop_mark().clear(),
    "DUP": lambda machine, arg: machine.push(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "MEMOIZE": _memoize,
    "TUPLE": lambda machine, arg: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, arg: _tuple(machine, 1),
    "TUPLE2": lambda machine, arg: _tuple(machine, 2),
    "TUPLE3": lambda machine, arg: _tuple(machine, 3),
    "EMPTY_LIST": lambda machine, arg: machine.push([]),
    "LIST": lambda machine, arg: machine.push(machine.pop_mark()),
    "APPEND": lambda machine, arg: _append(machine, [machine.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, arg: _append(machine, machine.pop_mark())),
    "EMPTY_DICT": lambda machine, arg: machine.push(Dict([])),
    "DICT": lambda machine, arg: machine.push(Dict(_pairs(machine.pop_mark()))),
    "SETITEM": lambda machine, arg: _set_items(machine, [machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, arg: _set_items(machine, machine.pop_mark()),
    "EMPTY_SET": lambda machine, arg: machine.push(_set_of("set", [])),
    "FROZENSET": lambda machine, arg: machine.push(_set_of("frozenset", machine.pop_mark())),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda machine, arg: machine.push(Global("copyreg", f"extension {arg}"))),
    "REDUCE": _reduce,
    "NEWOBJ": _new,
    "NEWOBJ_EX": _new_with_keywords,
    "OBJ": _obj,
    "INST": _inst,
    "BUILD": _build,
    "PERSID": _persistent,
    "BINPERSID": lambda machine, arg: _persistent(machine, machine.pop()),
}
