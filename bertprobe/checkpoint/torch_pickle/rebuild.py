"""What a call in a pickle says about a tensor: its header, or why it cannot be read."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import DTYPES, MAX_DIMENSIONS, Guard, Piece, TensorHeader
from bertprobe.checkpoint.torch_pickle.hints import READERS_DISAGREE
from bertprobe.checkpoint.torch_pickle.stack_machine import Call, Dict, Global, Persistent, Value
from bertprobe.errors import CorruptFile, printable, quoted

# Storage class: dtype and bytes of an element. Those whose dtype is not in DTYPES are measured but not read.
STORAGE_TYPES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "UntypedStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
    "ComplexFloatStorage": ("C64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
    "QInt8Storage": ("qint8", 1),
    "QUInt8Storage": ("quint8", 1),
    "QInt32Storage": ("qint32", 4),
    "QUInt4x2Storage": ("quint4x2", 1),
    "QUInt2x4Storage": ("quint2x4", 1),
}
# Torch calls its dtypes as numpy and ml_dtypes do.
TORCH_DTYPES = {dtype.numpy: dtype.name for dtype in DTYPES.values() if dtype.numpy is not None}
# What rebuilds a tensor from a storage: the fewest arguments, where its dtype and where its conjugate bits stand.
_REBUILDS: dict[str, tuple[int, int | None, int | None]] = {
    "torch._utils._rebuild_tensor": (4, None, None),
    "torch._utils._rebuild_tensor_v2": (4, None, 6),
    "torch._utils._rebuild_tensor_v3": (7, 6, 7),
}
# What wraps a tensor, its first argument, without changing a value.
_WRAPPINGS = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
}
_TYPED = {"torch._tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type"}
_PLAIN_TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
_WITH_STATE = {"torch._utils._rebuild_parameter_with_state", "torch._tensor._rebuild_from_type_v2"}  # the fourth
_VALUES = {"data", "real", "imag"}  # attributes of a tensor whose setting sets its values
MAX_ATTRIBUTES = 100  # all tensors may share the dictionary, and each looks through it
_READABLE = {*_REBUILDS, *_WRAPPINGS, *_TYPED}
_OTHER_KINDS = {
    "torch._utils._rebuild_sparse_tensor": "it is sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "it is sparse",
    "torch._utils._rebuild_qtensor": "it is quantized",
    "torch._utils._rebuild_nested_tensor": "it is a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "it is a meta tensor, saved without values",
    "torch._utils._rebuild_wrapper_subclass": "it is a wrapper subclass, saved without values",
    "torch._utils._rebuild_device_tensor_from_numpy": "it was converted from another device's tensor",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "it was converted from another device's tensor",
    "torch._utils._rebuild_xla_tensor": "it was converted from another device's tensor",
}
_TENSORS = {*_READABLE, *_OTHER_KINDS}


class Refused(Exception):
    """Why one tensor cannot be read."""


@dataclass(frozen=True, slots=True)
class Place:
    """The bytes of one storage in the file."""

    start: int
    size: int
    guard: Guard | None = None


Locate = Callable[[str], Place | None]
"""Where the storage of a key lies, None if the file has none."""


@dataclass(frozen=True, slots=True)
class TypedStorage:
    """A storage as the pickle declares it; a tensor sees the bytes `first` to `last` of its `size`."""

    key: str
    dtype: str
    item: int
    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor as the pickle declares it, `offset` and `strides` in elements."""

    storage: TypedStorage
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def extent(self) -> int:
        """How many elements of storage it spans."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))


def is_tensor(value: Value) -> bool:
    """Whether a value is a call that makes a tensor of any kind, readable or not."""
    return type(value) is Call and _path(value.function) in _TENSORS


def is_scalar(value: Value) -> bool:
    """Whether a value is a tensor of no dimension."""
    try:
        return not _view(_unwrapped(value)).shape
    except Refused:
        return False


def header(source: Source, locate: Locate, name: str, value: Value) -> TensorHeader:
    """The header of what a value makes, with a refusal if that is no tensor or one that cannot be read."""
    try:
        view = _view(_unwrapped(value))
    except Refused as reason:
        return TensorHeader(name, "?", (), refusal=str(reason))
    try:
        return TensorHeader(name, view.dtype, view.shape, (_piece(source, locate, view),), _strides(view))
    except Refused as reason:
        return TensorHeader(name, view.dtype, view.shape, refusal=str(reason))


def name_of(function: Value) -> str:
    """The name of what is called, safe to print."""
    return _shown(_path(function)[:100]) or "something without a name"


@lru_cache(1_000)  # a pickle may call one name of odd letters again and again
def _shown(name: str) -> str:
    return printable(name)[:100]


def _path(function: Value) -> str:
    """The name of what is called, or nothing; old files wrap a module's class in a persistent identifier."""
    if type(function) is Persistent and type(function.key) is tuple and function.key[1:]:
        function = function.key[1]
    return function.path if type(function) is Global else ""


def _unwrapped(value: Value) -> Call:
    """The call that makes the tensor itself, inside Parameters and the like."""
    for _ in range(8):
        if type(value) is not Call or value.state is not None or type(value.args) is not tuple:
            break
        path = _path(value.function)
        if path in _REBUILDS:
            return value
        if path in _TYPED:
            value = _untyped(value)
        elif path in _WRAPPINGS and value.args:
            value = value.args[0]
        else:
            break
    raise Refused(_blame(value, "it is wrapped in an unknown way"))


def changes_values(call: Call) -> bool:
    """Whether a call would set values of a tensor that is there, and so maybe of all that share its storage.

    Values are set as members, or as one of a tensor's own attributes, which come in one dictionary or two.
    """
    for _ in range(8):
        path = _path(call.function)
        args = tuple(call.args[:4]) if isinstance(call.args, tuple | list) else ()
        if path not in _TENSORS:
            return False
        if call.pairs or (path in _WITH_STATE and not _harmless(args[3:])):
            return True
        if path not in _TYPED or len(args) < 3:
            return False
        call = Call(args[0], args[2], creates=False)
    return True


def _harmless(states: tuple[Value, ...]) -> bool:
    parts = [part for state in states for part in (state[:3] if type(state) is tuple else (state,)) if part is not None]
    if any(type(part) is not Dict or len(part.pairs) > MAX_ATTRIBUTES for part in parts):
        return False
    return all(type(key) is str and key not in _VALUES for part in parts for key, _ in part.pairs)


def _untyped(call: Call) -> Call:
    if len(call.args) < 3:
        raise Refused("the call that makes it lacks arguments")
    function, kind, args = call.args[:3]
    if _path(kind) not in _PLAIN_TYPES:
        raise Refused(f"it is a tensor subclass, {name_of(kind)}")
    return Call(function, args, creates=False)


def _view(call: Call) -> _View:
    fewest, dtype_at, bits_at = _REBUILDS[_path(call.function)]
    if len(call.args) < fewest:
        raise Refused("the call that makes it lacks arguments")
    if bits_at is not None and len(call.args) > bits_at and call.args[bits_at] is not None:
        _check_bits(call.args[bits_at])
    storage = typed_storage(call.args[0])
    dtype = storage.dtype if dtype_at is None else _dtype(call.args[dtype_at])
    if dtype not in DTYPES:
        raise Refused(f"its dtype is torch.{printable(dtype[:40])}, which is not read here")
    shape, strides = _whole_numbers(call.args[2]), _whole_numbers(call.args[3])
    if len(shape) != len(strides):
        raise Refused("its shape and strides do not fit each other")
    return _View(storage, dtype, shape, strides, *_whole_numbers((call.args[1],)))


def _check_bits(bits: Value) -> None:
    """Torch negates or conjugates lazily: it may save the values from before, and a note in a dictionary."""
    if type(bits) is not Dict or bits.pairs:
        raise Refused(_blame(bits, "it is marked as conjugated or negated: its values are not those stored"))


def declared_storages(source: Source, persistent: list[Persistent]) -> dict[str, TypedStorage]:
    """Every storage by its key; raises `CorruptFile` if a key, of a storage or of a view of one, has two meanings.

    Torch takes the first meaning for all.
    """
    found: dict[str, TypedStorage] = {}
    meanings: dict[str, tuple[Value, ...]] = {}
    for identifier in persistent:
        whole: tuple[Value, ...] = ()  # of what is not understood: for torch it may have a meaning, and be the first
        view = whole
        with suppress(Refused):
            storage = typed_storage(identifier)
            found.setdefault(storage.key, storage)
            whole = (storage.dtype, storage.size)
            view = (storage.key, storage.first, storage.last)
        for name, meaning in zip(_keys(identifier), (whole, view), strict=False):
            if type(name) is str and meanings.setdefault(name, meaning) != meaning:
                raise CorruptFile(
                    f"{source.name} gives storage {quoted(name)} two types, sizes or places", READERS_DISAGREE
                )
    return found


def _keys(identifier: Persistent) -> tuple[Value, ...]:
    """The key of a storage, and that of a view of it."""
    key = identifier.key if type(identifier.key) is tuple else ()
    view = key[5] if len(key) > 5 and type(key[5]) is tuple else ()
    return key[2:3] + view[:1]


def typed_storage(value: Value) -> TypedStorage:
    """The storage that a persistent identifier names; raises `Refused`."""
    key = value.key if type(value) is Persistent else None
    if type(key) is not tuple or not 5 <= len(key) <= 6 or key[0] != "storage" or type(key[2]) is not str:
        raise Refused(_blame(value, "its storage is not named as torch does"))
    package, _, name = _path(key[1]).rpartition(".")
    if package not in ("torch", "torch.cuda", "torch.storage") or name not in STORAGE_TYPES:
        raise Refused(f"its storage is of the type {name_of(key[1])}, which is not on the list of harmless names")
    dtype, item = STORAGE_TYPES[name]
    (numel,) = _whole_numbers((key[4],))
    first, count = 0, numel
    if len(key) == 6 and key[5] is not None:
        if type(key[5]) is not tuple or len(key[5]) != 3 or type(key[5][0]) is not str:
            raise Refused("its storage is a view that is not named as torch does")
        first, count = _whole_numbers(key[5][1:])
        if first + count > numel:
            raise Refused("its storage is a view beyond the end of another")
    return TypedStorage(key[2], dtype, item, numel * item, first * item, (first + count) * item)


def _dtype(value: Value) -> str:
    if type(value) is not Global or value.module != "torch":
        raise Refused(_blame(value, "its dtype is not one of torch's"))
    return TORCH_DTYPES.get(value.name, value.name)


def _whole_numbers(value: Value) -> tuple[int, ...]:
    """A shape, strides or the like; a list would not do, for it may be changed after the call that was given it."""
    if type(value) is Call and _path(value.function) == "torch.Size" and type(value.args) is tuple:
        value = value.args[0] if len(value.args) == 1 else None
    if type(value) is not tuple:
        raise Refused(_blame(value, "its shape is not given in whole numbers"))
    if len(value) > MAX_DIMENSIONS:
        raise Refused(f"it has more than {MAX_DIMENSIONS} dimensions")
    for number in value:
        if type(number) is not int or not 0 <= number < 2**63:
            raise Refused(_blame(number, "its shape or place is not given in whole numbers"))
    return value


def _piece(source: Source, locate: Locate, view: _View) -> Piece:
    """Where the values lie; raises `Refused` unless the storage is whole and holds a value for every element."""
    storage, item = view.storage, DTYPES[view.dtype].bytes
    place = locate(storage.key)
    if place is None and 0 in view.shape:
        return Piece(source, 0, 0)
    if place is None:
        raise Refused(f"its values, storage {printable(storage.key[:40])}, are not in the file")
    if place.size != storage.size:
        raise Refused(f"its storage should have {storage.size:,} bytes, the file has {place.size:,} of it")
    if 0 in view.shape:
        return Piece(source, place.start, place.start)
    room = (storage.last - storage.first) // item
    if view.offset + view.extent > room:
        raise Refused(f"it reaches beyond its storage of {room:,} elements")
    if math.prod(view.shape) > room:
        raise Refused(f"it is an expanded view of fewer values ({room:,}) than it has elements")
    start = place.start + storage.first + view.offset * item
    return Piece(source, start, start + view.extent * item, guard=place.guard)


def _strides(view: _View) -> tuple[int, ...] | None:
    """The strides, or None if rows follow each other; those of axes of size 1 mean nothing and become 1."""
    expected = 1
    row_major = True
    for n, step in zip(reversed(view.shape), reversed(view.strides), strict=True):
        row_major &= n == 1 or step == expected
        expected *= n
    if row_major or 0 in view.shape:
        return None
    return tuple(1 if n == 1 else step for n, step in zip(view.shape, view.strides, strict=True))


def _blame(value: Value, otherwise: str) -> str:
    if type(value) is not Call:
        return otherwise
    path = _path(value.function)
    if path in _OTHER_KINDS:
        return _OTHER_KINDS[path]
    if path in _READABLE:
        return otherwise if value.state is None else "its values are replaced after it is made, as before PyTorch 0.4"
    return f"it is made by {name_of(value.function)}, which is not on the list of harmless names"
