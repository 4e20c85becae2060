"""Which tensors a checkpoint is about, among optimizers and other baggage, and under what names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index, TensorHeader
from bertprobe.checkpoint.torch_pickle.machine import Call, Dict, Global, Persistent, Value
from bertprobe.checkpoint.torch_pickle.rebuild import Locate, header, is_scalar, is_tensor, name_of
from bertprobe.errors import UnsupportedFile

MAX_TENSORS = 250_000
MAX_NAME = 1_000  # characters; a tensor's name is made of the keys on the way to it
MAX_VISITS = 20_000_000
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")

# Calls that a tensor's neighbour may be without being listed as a tensor that cannot be read.
_NO_TENSORS = {
    "_codecs": ("encode",),  # how Python 3 writes bytes for Python 2
    "builtins": ("bytearray", "complex", "frozenset", "set"),
    "collections": ("Counter", "OrderedDict", "defaultdict"),
    "torch": ("Size", "device"),
    "torch.serialization": ("_get_layout",),
}


def tensors(source: Source, saved: Value, locate: Locate) -> Index:
    """The headers of the weights in what was saved, and the keys they lay under."""
    held = _survey(saved)
    keys, root = _descend(source, saved, held)
    if not held.get(id(root), _NOTHING).tensors and (whole := _object_with_storages(root, held)):
        raise _whole_object(source, whole)
    found: dict[str, TensorHeader] = {}
    for name, value in _flatten(source, root, held):
        if name not in found:
            found[name] = header(source, locate, name, value)
        if len(found) > MAX_TENSORS:
            raise UnsupportedFile(
                f"{source.name} lists more than {MAX_TENSORS:,} tensors",
                "no model has so many: is it the right file?",
            )
    return Index(tuple(found.values()), wrapper=".".join(keys))


# ---- What a value holds ----


class _Holding(NamedTuple):
    """How many tensors one could list below a value, and whether anything in it needs a storage."""

    tensors: int
    storages: bool


_NOTHING = _Holding(0, False)
_Held = dict[int, _Holding]
"""By the identity of a value."""


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


def _holding(value: Value, held: _Held) -> _Holding:
    storages = type(value) is Persistent or any(held.get(id(part), _NOTHING).storages for part in _parts(value))
    if is_tensor(value):
        return _Holding(1, storages)
    members = [member for _, member in value.pairs] if _is_mapping(value) else value if _is_list(value) else ()
    # Lists that double themselves hold numbers of tensors that would fill memory.
    return _Holding(min(sum(held.get(id(member), _NOTHING).tensors for member in members), MAX_TENSORS + 1), storages)


def _parts(value: Value) -> list[Value] | tuple[Value, ...]:
    """Everything inside a value, at one remove."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Dict):
        return [member for _, member in value.pairs]
    if isinstance(value, Call):
        return [value.function, value.args, value.state, *(member for _, member in value.pairs), *value.items]
    return ()


def _is_list(value: Value) -> bool:
    return isinstance(value, list | tuple)


def _is_mapping(value: Value) -> bool:
    return isinstance(value, Dict) or (isinstance(value, Call) and bool(value.pairs) and not is_tensor(value))


def _is_object(value: Value) -> bool:
    return type(value) is Call and not is_tensor(value) and not _is_mapping(value)


def entries(value: Value) -> dict[str | int, Value]:
    """A mapping's members under the keys that can be part of a name; of equal keys the last counts."""
    if not _is_mapping(value):
        return {}
    return {
        key: member
        for key, member in value.pairs
        if type(key) is str or (type(key) is int and abs(key) < 2**63)  # Python refuses to print very long integers
    }


# ---- Where the weights are ----


def _descend(source: Source, root: Value, held: _Held) -> tuple[list[str], Value]:
    """The keys that lead to the weights among a checkpoint's other contents, and what lies under them."""
    keys: list[str] = []
    seen: set[int] = set()
    while not _is_object(root):
        seen.add(id(root))
        members = {key: member for key, member in entries(root).items() if id(member) not in seen}
        key = _next_key(members, held)
        if key is None:
            return keys, root
        keys.append(str(key))
        root = members[key]
    raise _whole_object(source, root)


def _next_key(members: dict[str | int, Value], held: _Held) -> str | int | None:
    beside = [member for member in members.values() if is_tensor(member)]
    holders = [key for key, member in members.items() if _is_mapping(member) and held[id(member)].tensors]
    objects = [key for key, member in members.items() if _is_object(member) and held[id(member)].storages]
    if all(is_scalar(tensor) for tensor in beside):  # a best loss or a step beside the weights is no weight
        for known in (known for keys in (holders, objects) for known in WRAPPERS if known in keys):
            return known
    if beside or not holders:
        return None
    # An optimizer keeps two or three tensors for each of the model's, but is never what is looked for.
    return max(holders, key=lambda key: (not _is_optimizer(key, members[key]), held[id(members[key])].tensors))


def _is_optimizer(key: str | int, value: Value) -> bool:
    return "optim" in str(key).lower() or {"state", "param_groups"} <= entries(value).keys()


def _object_with_storages(root: Value, held: _Held) -> Call | None:
    """The first object of some class, in dictionaries and lists, that keeps tensors inside."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not held.get(id(value), _NOTHING).storages:
            continue
        seen.add(id(value))
        if _is_object(value):
            found: Call = value
            return found
        waiting.extend(_parts(value))
    return None


def _whole_object(source: Source, value: Call) -> UnsupportedFile:
    return UnsupportedFile(
        f"{source.name} holds a whole pickled object, {name_of(value.function)}, not a dictionary of tensors",
        "save model.state_dict() instead, on a machine that trusts the file",
    )


# ---- Their names ----


def _flatten(source: Source, root: Value, held: _Held) -> Iterator[tuple[str, Value]]:
    """Every tensor below a value, and what stands in a tensor's place, under the keys that lead to it."""
    if is_tensor(root):
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
                    "is it the right file?",
                )
            if not _is_mapping(child) and not _is_list(child):
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
            raise UnsupportedFile(f"{source.name} repeats its own contents too often", "is it the right file?")


def _children(value: Value, held: _Held) -> list[tuple[str, Value]]:
    """The members of a mapping or list that are tensors, hold some, or should have been one."""
    members = dict(enumerate(value)) if _is_list(value) else entries(value)
    among_tensors = any(is_tensor(member) for member in members.values())
    return [
        (str(key), member)
        for key, member in members.items()
        if held.get(id(member), _NOTHING).tensors or (among_tensors and _is_suspect(member, held))
    ]


def _is_suspect(value: Value, held: _Held) -> bool:
    """Whether a tensor's neighbour is made by an unknown function, or is an unknown object with tensors inside."""
    if not _is_object(value):
        return False
    function = value.function
    harmless = type(function) is Global and function.name in _NO_TENSORS.get(function.module, ())
    return held[id(value)].storages or not (value.creates or harmless)
