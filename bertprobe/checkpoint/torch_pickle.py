"""What `torch.save` writes, as byte ranges: a zip of a pickle and raw storages, or, before 2020, pickles in sequence.

Source: torch/serialization.py (`_save`, `_legacy_save`), torch/_utils.py (the `_rebuild_*` functions) and PKWARE's
APPNOTE.TXT for the zip. Torch is not needed and nothing in a file is ever called: `pickle_machine` writes down what the
pickle asks for, and only calls of the few functions in `_REBUILDS` and `_WRAPPINGS` are understood here.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO

from bertprobe.checkpoint.pickle_machine import Call, Dict, Global, Malformed, Persistent, Pickle, Value, interpret
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import DTYPES, MAX_DIMENSIONS, Guard, Index, Piece, TensorHeader
from bertprobe.errors import CorruptFile, UnsupportedFile, printable, shortened

MAX_PICKLE = 256 * 2**20
MAX_DIRECTORY = 32 * 2**20  # a zip's table of contents has some 80 bytes a tensor
MAX_TENSORS = 250_000
MAX_NAME = 1_000  # characters; a tensor's name is made of the keys on the way to it
MAX_VISITS = 20_000_000
HEAD = 64 * 1024  # a 12-layer BERT's pickle has 15 to 30 kB
TAIL = 2**16 + 22  # a zip's end record and the longest comment after it
ALIGNMENT = 64  # of every member torch writes
DAMAGED = "the file is damaged or was cut short: fetch it again"
RESAVE = "load and save it again with torch.save"

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
TAR_STARTS = (b"sys_info\0", b"pickle\0", b"storages\0", b"tensors\0")  # PyTorch 0.1.9 and older
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")

# Storage class: dtype and bytes of an element. Those whose dtype is not in DTYPES are measured but not read.
STORAGES = {
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
TORCH_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "complex64": "C64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
# What rebuilds a tensor from a storage: the fewest arguments, where its dtype and where its conjugate bits stand.
_REBUILDS: dict[str, tuple[int, int | None, int | None]] = {
    "torch._utils._rebuild_tensor": (4, None, None),
    "torch._utils._rebuild_tensor_v2": (4, None, 6),
    "torch._utils._rebuild_tensor_v3": (7, 6, 7),
}
# What wraps a tensor, its first argument, without changing a value.
_WRAPPINGS = frozenset(
    (
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
    )
)
_TYPED = frozenset(("torch._tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type"))
_PLAIN_TYPES = frozenset(("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"))
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
_NO_TENSORS = {
    "_codecs": ("encode",),  # how Python 3 writes bytes for Python 2
    "builtins": ("bytearray", "complex", "frozenset", "set"),
    "collections": ("Counter", "OrderedDict", "defaultdict"),
    "torch": ("Size", "device"),
    "torch.serialization": ("_get_layout",),
}


def recognises(head: bytes) -> bool:
    """Whether the first bytes of a file start a zip, a pickle of protocol 2 to 5, or PyTorch's first tar format."""
    return head.startswith(ZIP_STARTS + TAR_STARTS) or (
        head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")
    )


def index(source: Source) -> Index:
    """The headers of every tensor in the file, in its order; raises `CorruptFile` or `UnsupportedFile`."""
    head = source.read(0, min(HEAD, source.size))
    if head.startswith(ZIP_STARTS):
        archive = _Archive(_Window(source, head))
        return _tensors(source, archive.pickle(), archive.place)
    if head.startswith(TAR_STARTS) and head[257:262] == b"ustar":
        raise UnsupportedFile(f"{source.name} is in the tar format of PyTorch 0.1", RESAVE)
    _check_magic(source, head)
    saved, keys, end = _old_pickles(source, head)
    return _tensors(source, saved.value, _old_places(source, saved, keys, end).get)


# ---- Where a storage lies ----


@dataclass(frozen=True, slots=True)
class _Place:
    """The bytes of one storage."""

    start: int
    size: int
    guard: Guard | None = None


_Locate = Callable[[str], _Place | None]


# ---- Zip files ----


class _Window:
    """A source as `zipfile` reads it; the two ends, where a zip has what an index needs, are fetched once."""

    def __init__(self, source: Source, head: bytes) -> None:
        self.source = source
        self._at = 0
        start = max(0, source.size - TAIL)
        tail = head[start:] if len(head) == source.size else source.read(start, source.size)
        self._ends = ((0, head), (start, tail))

    def span(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, from memory where they are there."""
        for first, data in self._ends:
            if first <= start and stop <= first + len(data):
                return data[start - first : stop - first]
        return self.source.read(start, stop)

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + {0: 0, 1: self._at, 2: self.source.size}[whence]
        if at < 0:
            raise OSError("before the start of the file")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        start = min(self._at, self.source.size)
        stop = self.source.size if size is None or size < 0 else min(start + size, self.source.size)
        if stop - start > MAX_DIRECTORY:
            raise UnsupportedFile(
                f"the table of contents of {self.source.name} has more than {MAX_DIRECTORY:,} bytes",
                "is this the right file?",
            )
        self._at = stop
        return self.span(start, stop)


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in a zip: its local header starts at `first`, and everything that is its own ends before `stop`."""

    name: str
    first: int
    stop: int
    earliest: int
    size: int
    method: int
    flags: int

    def aligned_start(self) -> int | None:
        """Where the data start if torch wrote the file, as far as the table of contents can tell.

        The data end where the next member begins, or before the descriptor that bit 3 of the flags announces, and
        torch starts them at a multiple of 64 by filling up the local header.
        """
        starts = [self.stop - self.size - after for after in ((16, 24) if self.flags & 8 else (0,))]
        fitting = [start for start in starts if start % ALIGNMENT == 0 and start >= self.earliest]
        return fitting[0] if len(fitting) == 1 else None


class _Archive:
    """A zip written by `torch.save`: one folder with `data.pkl`, and a member under `data/` for every storage."""

    def __init__(self, window: _Window) -> None:
        self._window = window
        self._source = window.source
        self._members = _members(window)
        self._folder = self._find_folder()
        self._places: dict[str, _Place] = {}
        storages = [self._members[name] for name in self._members if name.startswith(f"{self._folder}/data/")]
        # One program wrote them all: if one member is not where torch would have put it, no guess is trusted.
        self._by_torch = all(member.aligned_start() is not None for member in storages if not member.name.endswith("/"))

    def pickle(self) -> Value:
        """What `data.pkl` holds."""
        order = self._members.get(f"{self._folder}/byteorder")
        if order is not None and self._content(order, 64) != b"little":
            raise UnsupportedFile(f"{self._source.name} was not saved in little-endian byte order", RESAVE)
        data = self._content(self._members[f"{self._folder}/data.pkl"], MAX_PICKLE)
        try:
            return interpret(BytesIO(data)).value
        except Malformed as error:
            raise CorruptFile(f"data.pkl in {self._source.name} is not a pickle ({error})", DAMAGED) from error

    def place(self, key: str) -> _Place | None:
        """Where a storage lies, or None if the file has none of that key."""
        member = self._members.get(f"{self._folder}/data/{key}")
        if member is None:
            return None
        if key not in self._places:
            self._places[key] = self._locate(member)
        return self._places[key]

    def _locate(self, member: _Member) -> _Place:
        _check_stored(self._source, member)
        start = member.aligned_start()
        if start is None or not self._by_torch:
            return _Place(self._exact_start(member), member.size)
        check = partial(_check_local_header, self._source, member, start)
        return _Place(start, member.size, Guard(member.first, member.first + 30, check))

    def _exact_start(self, member: _Member) -> int:
        start = _data_start(self._source, member, self._window.span(member.first, member.first + 30))
        if start + member.size > member.stop:
            raise CorruptFile(f"{_shown(self._source, member)} runs into the one after it", DAMAGED)
        return start

    def _content(self, member: _Member, most: int) -> bytes:
        _check_stored(self._source, member)
        if member.size > most:
            raise UnsupportedFile(
                f"{_shown(self._source, member)} has {member.size:,} bytes, more than {most:,}",
                "is this the right file?",
            )
        # The local header's two variable fields are not known yet: one read takes them along at their longest.
        data = self._window.span(member.first, min(member.stop, member.first + 30 + 2 * 65535 + member.size))
        start = _data_start(self._source, member, data) - member.first
        if start + member.size > len(data):
            raise CorruptFile(f"{_shown(self._source, member)} runs into the one after it", DAMAGED)
        return data[start : start + member.size]

    def _find_folder(self) -> str:
        names = list(self._members)
        if any((name.count("/") == 1 and name.endswith("/constants.pkl")) or "/code/" in name for name in names):
            raise UnsupportedFile(
                f"{self._source.name} is a TorchScript program",
                "load it with torch.jit.load and torch.save its state_dict()",
            )
        folders = [name.partition("/")[0] for name in names if name.partition("/")[2] == "data.pkl"]
        if len(folders) == 1:
            return folders[0]
        raise UnsupportedFile(
            f"{self._source.name} is a zip, but not one that torch.save wrote: it holds "
            + (shortened([printable(name[:60]) for name in names]) or "nothing"),
            "if a checkpoint is packed in it, unpack it first",
        )


def _members(window: _Window) -> dict[str, _Member]:
    """The members by name; raises `CorruptFile` if two of them share a name or a byte."""
    source = window.source
    try:
        archive = zipfile.ZipFile(window)
    except (
        zipfile.BadZipFile,
        ValueError,
        struct.error,
        ArithmeticError,
        LookupError,
        RuntimeError,
        EOFError,
    ) as error:
        reason = printable(str(error)[:100])
        raise CorruptFile(
            f"{source.name} ends before its table of contents or has a broken one ({reason})", DAMAGED
        ) from error
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    stops = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
    members = [_member(source, entry, stop) for entry, stop in zip(entries, stops, strict=False)]
    found = {member.name: member for member in members}
    if len(found) < len(members):
        raise CorruptFile(f"{source.name} has two members of the same name", "readers disagree on which one counts")
    return found


def _member(source: Source, entry: zipfile.ZipInfo, stop: int) -> _Member:
    name = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
    first = entry.header_offset
    member = _Member(
        entry.filename, first, stop, first + 30 + len(name), entry.compress_size, entry.compress_type, entry.flag_bits
    )
    if first < 0 or member.earliest + member.size > stop or stop > source.size:
        raise CorruptFile(f"{_shown(source, member)} overlaps the one after it or the end of the file", DAMAGED)
    if not member.method and entry.file_size != entry.compress_size:
        raise CorruptFile(f"{_shown(source, member)} has two sizes", DAMAGED)
    return member


def _check_stored(source: Source, member: _Member) -> None:
    if member.method or member.flags & 1:
        how = "encrypted" if member.flags & 1 else "compressed"
        raise UnsupportedFile(
            f"{_shown(source, member)} is {how}", f"zip members written by torch itself never are: {RESAVE}"
        )


def _data_start(source: Source, member: _Member, header: bytes) -> int:
    """Where a member's data start by its local header; raises `CorruptFile` if that is not a header of plain data."""
    signature, flags, method, name, extra = struct.unpack("<4s2xHH16xHH", header[:30])
    if signature != b"PK\x03\x04" or flags & 1 or method != member.method:
        raise CorruptFile(f"{_shown(source, member)} does not start as the table of contents says", DAMAGED)
    return int(member.first + 30 + name + extra)


def _check_local_header(source: Source, member: _Member, start: int, header: bytes) -> None:
    if _data_start(source, member, header) != start:
        raise CorruptFile(f"{_shown(source, member)} is not where the table of contents puts it", RESAVE)


def _shown(source: Source, member: _Member) -> str:
    return f"member {printable(member.name[:100])} of {source.name}"


# ---- Old files: pickles in sequence, then the storages ----


def _check_magic(source: Source, head: bytes) -> None:
    try:
        magic = interpret(BytesIO(head[:64])).value
    except Malformed:
        magic = None
    if type(magic) is not int or magic != MAGIC:
        what = "a pickle, but not one" if head[:1] == b"\x80" else "not a file"
        raise UnsupportedFile(
            f"{source.name} is {what} that torch.save wrote", "save the tensors with torch.save or as safetensors"
        )


def _old_pickles(source: Source, head: bytes) -> tuple[Pickle, list[str], int]:
    """The saved object, the keys of the storages after it in their order, and where the first one starts."""
    found: list[Pickle] = []
    end = 0
    while len(found) < 5:
        stream = BytesIO(head)
        stream.seek(end)
        try:
            found.append(interpret(stream))
            end = stream.tell()
        except Malformed as error:
            head += _more(source, head, error)
        _check_preamble(source, [pickle.value for pickle in found])
    keys = found[4].value
    if type(keys) is not list or any(type(key) is not str for key in keys) or len(set(keys)) < len(keys):
        raise CorruptFile(f"the list of storages in {source.name} is not a list of different strings", DAMAGED)
    return found[3], keys, end


def _more(source: Source, head: bytes, error: Malformed) -> bytes:
    """As many bytes again, if the pickle may go on in them."""
    if not error.ended or len(head) == source.size:
        raise CorruptFile(f"{source.name} is not a sound pickle ({error})", DAMAGED) from error
    if len(head) >= MAX_PICKLE:
        raise UnsupportedFile(
            f"{source.name} has a pickle of more than {MAX_PICKLE:,} bytes", "is this the right file?"
        )
    return source.read(len(head), min(2 * len(head), source.size))


def _check_preamble(source: Source, values: list[Value]) -> None:
    if len(values) > 1 and (type(values[1]) is not int or values[1] != PROTOCOL):
        raise UnsupportedFile(f"{source.name} is in another protocol of torch.save than {PROTOCOL}", RESAVE)
    if len(values) > 2 and _entries(values[2]).get("little_endian") is not True:
        raise UnsupportedFile(f"{source.name} was not saved in little-endian byte order", RESAVE)


def _old_places(source: Source, saved: Pickle, keys: list[str], end: int) -> dict[str, _Place]:
    """Where each storage lies: one after the other, each after a count that a guard compares."""
    declared: dict[str, _Storage] = {}
    for persistent in saved.persistent:
        try:
            storage = _storage(persistent)
        except _Refused:
            continue
        declared.setdefault(storage.key, storage)
    places = {}
    for key in keys:
        if key not in declared:
            raise UnsupportedFile(f"storage {printable(key[:40])} in {source.name} is of an unknown type", RESAVE)
        storage = declared[key]
        check = partial(_check_count, source, storage)
        places[key] = _Place(end + 8, storage.size, Guard(end, end + 8, check))
        end += 8 + storage.size
    if end > source.size:
        raise CorruptFile(
            f"{source.name} should have {end:,} bytes by its list of storages, it has {source.size:,}", DAMAGED
        )
    return places


def _check_count(source: Source, storage: _Storage, count: bytes) -> None:
    if int.from_bytes(count, "little", signed=True) * storage.item != storage.size:
        raise CorruptFile(
            f"storage {printable(storage.key[:40])} of {source.name} is not where the sizes before it put it", DAMAGED
        )


# ---- What a call says about a tensor ----


class _Refused(Exception):
    """Why one tensor cannot be read."""


@dataclass(frozen=True, slots=True)
class _Storage:
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

    storage: _Storage
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def extent(self) -> int:
        """How many elements of storage it spans."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))


def _header(source: Source, locate: _Locate, name: str, value: Value) -> TensorHeader:
    try:
        view = _view(_unwrapped(value))
    except _Refused as reason:
        return TensorHeader(name, "?", (), refusal=str(reason))
    try:
        return TensorHeader(name, view.dtype, view.shape, (_piece(source, locate, view),), _strides(view))
    except _Refused as reason:
        return TensorHeader(name, view.dtype, view.shape, refusal=str(reason))


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
    raise _Refused(_blame(value, "it is wrapped in an unknown way"))


def _untyped(call: Call) -> Call:
    if len(call.args) < 3:
        raise _Refused("the call that makes it lacks arguments")
    function, kind, args, *_ = call.args
    if _path(kind) not in _PLAIN_TYPES:
        raise _Refused(f"it is a tensor subclass, {_path(kind)}")
    return Call(function, args, creates=False)


def _view(call: Call) -> _View:
    fewest, dtype_at, bits_at = _REBUILDS[_path(call.function)]
    if len(call.args) < fewest:
        raise _Refused("the call that makes it lacks arguments")
    if bits_at is not None and len(call.args) > bits_at and call.args[bits_at] is not None:
        _check_bits(call.args[bits_at])
    storage = _storage(call.args[0])
    dtype = storage.dtype if dtype_at is None else _dtype(call.args[dtype_at])
    if dtype not in DTYPES:
        raise _Refused(f"its dtype is torch.{printable(dtype[:40])}, which is not read here")
    shape, strides = _whole_numbers(call.args[2]), _whole_numbers(call.args[3])
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise _Refused("its shape and strides do not fit each other")
    return _View(storage, dtype, shape, strides, *_whole_numbers((call.args[1],)))


def _check_bits(bits: Value) -> None:
    """Torch negates or conjugates lazily: it may save the values from before, and a note in a dictionary."""
    if type(bits) is not Dict or bits.pairs:
        raise _Refused(_blame(bits, "it is marked as conjugated or negated: its values are not those stored"))


def _storage(value: Value) -> _Storage:
    key = value.key if type(value) is Persistent else None
    if type(key) is not tuple or not 5 <= len(key) <= 6 or key[0] != "storage" or type(key[2]) is not str:
        raise _Refused(_blame(value, "its storage is not named as torch does"))
    kind = _path(key[1])
    package, _, name = kind.rpartition(".")
    if package not in ("torch", "torch.cuda", "torch.storage") or name not in STORAGES:
        raise _Refused(f"its storage is of the type {kind}, which is not on the list of harmless names")
    dtype, item = STORAGES[name]
    (numel,) = _whole_numbers((key[4],))
    first, count = 0, numel
    if len(key) == 6 and key[5] is not None:
        first, count = _whole_numbers(key[5][1:] if type(key[5]) is tuple and len(key[5]) == 3 else None)
        if first + count > numel:
            raise _Refused("its storage is a view beyond the end of another")
    return _Storage(key[2], dtype, item, numel * item, first * item, (first + count) * item)


def _dtype(value: Value) -> str:
    if type(value) is not Global or value.module != "torch":
        raise _Refused(_blame(value, "its dtype is not one of torch's"))
    return TORCH_DTYPES.get(value.name, value.name)


def _whole_numbers(value: Value) -> tuple[int, ...]:
    if type(value) is Call and _path(value.function) == "torch.Size" and type(value.args) is tuple:
        value = value.args[0] if len(value.args) == 1 else None
    if not isinstance(value, tuple | list):
        raise _Refused(_blame(value, "its shape is not given in whole numbers"))
    for number in value:
        if type(number) is not int or not 0 <= number < 2**63:
            raise _Refused(_blame(number, "its shape or place is not given in whole numbers"))
    return tuple(value)


def _piece(source: Source, locate: _Locate, view: _View) -> Piece:
    """Where the values lie; raises `_Refused` unless the storage is whole and holds a value for every element."""
    storage, item = view.storage, DTYPES[view.dtype].bits // 8
    place = locate(storage.key)
    if place is None and 0 in view.shape:
        return Piece(source, 0, 0)
    if place is None:
        raise _Refused(f"its values, storage {printable(storage.key[:40])}, are not in the file")
    if place.size != storage.size:
        raise _Refused(f"its storage should have {storage.size:,} bytes, the file has {place.size:,} of it")
    if 0 in view.shape:
        return Piece(source, place.start, place.start)
    room = (storage.last - storage.first) // item
    if view.offset + view.extent > room:
        raise _Refused(f"it reaches beyond its storage of {room:,} elements")
    if math.prod(view.shape) > room:
        raise _Refused(f"it is an expanded view of fewer values ({room:,}) than it has elements")
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


def _path(function: Value) -> str:
    """The name of what is called; old files wrap a module's class in a persistent identifier."""
    if type(function) is Persistent and type(function.key) is tuple and function.key[1:]:
        function = function.key[1]
    return printable(function.path[:100]) if type(function) is Global else "something without a name"


def _blame(value: Value, otherwise: str) -> str:
    if type(value) is not Call:
        return otherwise
    path = _path(value.function)
    if path in _OTHER_KINDS:
        return _OTHER_KINDS[path]
    if path in _REBUILDS or path in _WRAPPINGS or path in _TYPED:
        return otherwise if value.state is None else "its values are replaced after it is made, as before PyTorch 0.4"
    return f"it is made by {path}, which is not on the list of harmless names"


# ---- Which tensors a checkpoint is about ----


def _tensors(source: Source, saved: Value, locate: _Locate) -> Index:
    held = _survey(saved)
    keys, root = _descend(source, saved, held)
    if not held.get(id(root), _NOTHING)[0] and (whole := _object_with_storages(root, held)):
        raise _whole_object(source, whole)
    found: dict[str, TensorHeader] = {}
    for name, value in _flatten(source, root, held):
        if name not in found:
            found[name] = _header(source, locate, name, value)
        if len(found) > MAX_TENSORS:
            raise UnsupportedFile(
                f"{source.name} lists more than {MAX_TENSORS:,} tensors",
                "no model has so many; is this the right file?",
            )
    return Index(tuple(found.values()), wrapper=".".join(keys))


_NOTHING = (0, False)
_Held = dict[int, tuple[int, bool]]
"""By the identity of a value: how many tensors one could list below it, and whether anything in it needs a storage."""


def _survey(root: Value) -> _Held:
    """What every value holds, the innermost first; a value inside itself counts as empty there."""
    held: _Held = {id(root): _NOTHING}
    path = [(root, iter(_parts(root)))]
    while path:
        value, parts = path[-1]
        for part in parts:
            if id(part) not in held and isinstance(part, Call | Dict | list | tuple | Persistent):
                held[id(part)] = _NOTHING
                path.append((part, iter(_parts(part))))
                break
        else:
            held[id(value)] = _holding(value, held)
            path.pop()
    return held


def _holding(value: Value, held: _Held) -> tuple[int, bool]:
    storages = type(value) is Persistent or any(held.get(id(part), _NOTHING)[1] for part in _parts(value))
    if _is_tensor(value):
        return 1, storages
    if not _is_mapping(value) and not isinstance(value, list | tuple):
        return 0, storages
    members = [member for _, member in value.pairs] if _is_mapping(value) else value
    return min(sum(held.get(id(member), _NOTHING)[0] for member in members), MAX_TENSORS + 1), storages


def _parts(value: Value) -> list[Value] | tuple[Value, ...]:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Dict):
        return [member for _, member in value.pairs]
    if isinstance(value, Call):
        return [value.function, value.args, value.state, *(member for _, member in value.pairs), *value.items]
    return ()


def _is_mapping(value: Value) -> bool:
    return isinstance(value, Dict) or (isinstance(value, Call) and bool(value.pairs) and not _is_tensor(value))


def _is_tensor(value: Value) -> bool:
    if type(value) is not Call:
        return False
    path = _path(value.function)
    return path in _REBUILDS or path in _WRAPPINGS or path in _TYPED or path in _OTHER_KINDS


def _entries(value: Value) -> dict[str | int, Value]:
    """A mapping's members under the keys that can be part of a name; of equal keys the last counts."""
    if not _is_mapping(value):
        return {}
    return {
        key: member
        for key, member in value.pairs
        if type(key) is str or (type(key) is int and abs(key) < 2**63)  # Python refuses to print very long integers
    }


def _descend(source: Source, root: Value, held: _Held) -> tuple[list[str], Value]:
    """The keys that lead to the weights among a checkpoint's other contents, and what lies under them."""
    keys: list[str] = []
    seen: set[int] = set()
    while True:
        seen.add(id(root))
        if type(root) is Call and not _is_mapping(root) and not _is_tensor(root):
            raise _whole_object(source, root)
        entries = {key: member for key, member in _entries(root).items() if id(member) not in seen}
        key = _next_key(entries, held)
        if key is None:
            return keys, root
        keys.append(str(key))
        root = entries[key]


def _next_key(entries: dict[str | int, Value], held: _Held) -> str | int | None:
    tensors = [member for member in entries.values() if _is_tensor(member)]
    holders = [key for key, member in entries.items() if _is_mapping(member) and held[id(member)][0]]
    if all(_is_scalar(tensor) for tensor in tensors):  # a best loss or a step beside the weights is no weight
        for known in WRAPPERS:
            if known in entries and known in holders:
                return known
        for known in WRAPPERS:
            if known in entries and _is_object_with_storages(entries[known], held):
                return known
    if tensors or not holders:
        return None
    # An optimizer keeps two or three tensors for each of the model's, but is never what is looked for.
    return max(holders, key=lambda key: (not _is_optimizer(key, entries[key]), held[id(entries[key])][0]))


def _is_scalar(tensor: Value) -> bool:
    try:
        return not _view(_unwrapped(tensor)).shape
    except _Refused:
        return False


def _is_optimizer(key: str | int, value: Value) -> bool:
    return "optim" in str(key).lower() or {"state", "param_groups"} <= _entries(value).keys()


def _is_object_with_storages(value: Value, held: _Held) -> bool:
    return type(value) is Call and not _is_tensor(value) and not _is_mapping(value) and held[id(value)][1]


def _object_with_storages(root: Value, held: _Held) -> Call | None:
    """The first object of some class, in dictionaries and lists, that keeps tensors inside."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not held.get(id(value), _NOTHING)[1]:
            continue
        seen.add(id(value))
        if _is_object_with_storages(value, held):
            found: Call = value
            return found
        waiting.extend(_parts(value))
    return None


def _whole_object(source: Source, value: Call) -> UnsupportedFile:
    return UnsupportedFile(
        f"{source.name} holds a whole pickled object, {_path(value.function)}, not a dictionary of tensors",
        "save model.state_dict() instead, on a machine that trusts the file",
    )


def _flatten(source: Source, root: Value, held: _Held) -> Iterator[tuple[str, Value]]:
    """Every tensor below a value, and what stands in a tensor's place, under the keys that lead to it."""
    if _is_tensor(root):
        yield "tensor", root
        return
    visits = 0
    path = [("", root, iter(_children(root, held)))]
    inside = {id(root)}
    while path:
        prefix, value, children = path[-1]
        for key, child in children:
            name = f"{prefix}{key}"
            if len(name) > MAX_NAME:
                raise UnsupportedFile(
                    f"{source.name} has a tensor under a name of over {MAX_NAME:,} characters",
                    "is this the right file?",
                )
            if not _is_mapping(child) and not isinstance(child, list | tuple):
                yield name, child
            elif id(child) not in inside:
                visits += len(_parts(child))
                inside.add(id(child))
                path.append((f"{name}.", child, iter(_children(child, held))))
                break
        else:
            inside.remove(id(value))
            path.pop()
        if visits > MAX_VISITS:
            raise UnsupportedFile(f"{source.name} repeats its own contents too often", "is this the right file?")


def _children(value: Value, held: _Held) -> list[tuple[str, Value]]:
    """The members of a mapping or list that are tensors, hold some, or should have been one."""
    entries = (
        _entries(value) if _is_mapping(value) else dict(enumerate(value)) if isinstance(value, list | tuple) else {}
    )
    among_tensors = any(_is_tensor(member) for member in entries.values())
    return [
        (str(key), member)
        for key, member in entries.items()
        if held.get(id(member), _NOTHING)[0] or (among_tensors and _is_suspect(member, held))
    ]


def _is_suspect(value: Value, held: _Held) -> bool:
    """Whether a tensor's neighbour is made by an unknown function, or is an unknown object with tensors inside."""
    if type(value) is not Call or _is_mapping(value):
        return False
    function = value.function
    harmless = type(function) is Global and function.name in _NO_TENSORS.get(function.module, ())
    return held[id(value)][1] or not (value.creates or harmless)
