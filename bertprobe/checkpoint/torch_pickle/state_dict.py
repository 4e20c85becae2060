"""Which tensors a checkpoint is about, among optimizers and other baggage, and under what names.

Two keys that Python holds to be equal (1, 1.0 and True), or that become the same name (1 and "1", or "a.b" beside a
"b" in an "a"), are refused: one of the two tensors would be lost, and readers disagree on which. Of equal strings the
last counts, as in Python.

Bounds: each value is looked at once, and where a dictionary or list is used several times, the names in it are listed
at most `MOST_SHARED` times as often as the whole pickle has members (and `SPARE_NAMES`), with at most
`CHARACTERS_A_BYTE` characters of names for each byte of the pickle (and `SPARE_CHARACTERS`). So time and memory follow
the size of the pickle, also where a short one spells out an endless tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index, TensorHeader
from bertprobe.checkpoint.torch_pickle.hints import READERS_DISAGREE
from bertprobe.checkpoint.torch_pickle.rebuild import Locate, changes_values, header, is_scalar, is_tensor, name_of
from bertprobe.checkpoint.torch_pickle.stack_machine import Call, Dict, Global, Persistent, Pickle, Value
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile, quoted

MAX_TENSORS = 250_000
MAX_NAME = 1_000  # characters; a tensor's name is made of the keys on the way to it
MOST_SHARED = 8
SPARE_NAMES = 10_000
CHARACTERS_A_BYTE = 8
SPARE_CHARACTERS = 1_000_000
MOST_RIVALS = 8
LEAST_RIVAL, RIVAL_SHARE = 4, 4  # tensors of another model in the file, and the share of the first one's that it has
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")

# Calls that a tensor's neighbour may be without being listed as a tensor that cannot be read.
_NO_TENSORS = {
    "_codecs": ("encode",),  # how Python 3 writes bytes for Python 2
    "builtins": ("bytearray", "complex", "frozenset", "set"),
    "collections": ("Counter", "OrderedDict", "defaultdict"),
    "torch": ("Size", "device"),
    "torch.serialization": ("_get_layout",),
}


def tensors(source: Source, saved: Pickle, locate: Locate) -> Index:
    """The headers of the weights in what was saved, and the keys they lay under."""
    if any(changes_values(call) for call in saved.calls):
        raise UnsupportedFile(f"{source.name} changes values of a tensor after it is made", READERS_DISAGREE)
    survey = _Survey(source, saved)
    keys, root, rivals = _descend(survey, saved.value)
    if not survey.held(root).tensors and (whole := _object_with_storages(root, survey)):
        raise _whole_object(source, whole)
    made: dict[int, TensorHeader] = {}
    others: dict[str, tuple[TensorHeader, ...]] = {}
    for path, value in rivals[:MOST_RIVALS]:
        with suppress(BertprobeError):  # what nobody asked for need not be sound
            below, inner, _ = _descend(survey, value)
            others[".".join([*path, *below])] = _headers(survey, inner, locate, made)
    return Index(_headers(survey, root, locate, made), wrapper=".".join(keys), models=others)


def _headers(survey: _Survey, root: Value, locate: Locate, made: dict[int, TensorHeader]) -> tuple[TensorHeader, ...]:
    """The header of every tensor below a value; `made` are those of before, by the identity of what they come of."""
    source = survey.source
    found: dict[str, TensorHeader] = {}
    for name, value in _flatten(root, survey):
        if name in found:
            raise CorruptFile(
                f"{source.name} has two tensors under the name {quoted(name)}, made of different keys", READERS_DISAGREE
            )
        known = made.get(id(value))  # a pickle of two bytes a mention may list one tensor under many names
        found[name] = header(source, locate, name, value) if known is None else replace(known, name=name)
        made[id(value)] = found[name]
        if len(found) > MAX_TENSORS:
            raise UnsupportedFile(
                f"{source.name} lists more than {MAX_TENSORS:,} tensors",
                "no model has so many: is it the right file?",
            )
    return tuple(found.values())


# ---- What a value holds ----


class _Holding(NamedTuple):
    """How many tensors one could list below a value, and whether anything in it needs a storage.

    `optimizer` tells a mapping with the two keys of an optimizer's state.
    """

    tensors: int
    storages: bool
    optimizer: bool = False


_NOTHING = _Holding(0, False)


class _Survey:
    """What every value of a pickle holds, taken once, the innermost first; one inside itself counts as empty there."""

    def __init__(self, source: Source, saved: Pickle) -> None:
        self.source = source
        self.size = saved.size
        self.members = 0
        self._held: dict[int, _Holding] = {}
        self._take(saved.value)

    def held(self, value: Value) -> _Holding:
        return self._held.get(id(value), _NOTHING)

    def entries(self, value: Value) -> dict[str | int, Value]:
        """A mapping's members under the keys that can be part of a name."""
        return entries(self.source, value)

    def _take(self, root: Value) -> None:
        self._held[id(root)] = _NOTHING
        path = [(root, iter(_parts(root)))]
        while path:
            value, parts = path[-1]
            for part in parts:
                self.members += 1
                if id(part) not in self._held and isinstance(part, Call | Dict | list | tuple | Persistent):
                    self._held[id(part)] = _NOTHING
                    path.append((part, iter(_parts(part))))
                    break
            else:
                self._held[id(value)] = self._holding(value)
                path.pop()

    def _holding(self, value: Value) -> _Holding:
        storages = type(value) is Persistent or any(self.held(part).storages for part in _parts(value))
        if is_tensor(value):
            return _Holding(1, storages)
        if not _is_mapping(value):
            return _Holding(self._tensors(value if _is_list(value) else ()), storages)
        names = {key for key, _ in value.pairs if type(key) is str}
        members = [member for _, member in value.pairs]
        return _Holding(self._tensors(members), storages, {"state", "param_groups"} <= names)

    def _tensors(self, members: list[Value] | tuple[Value, ...]) -> int:
        # Lists that double themselves hold numbers of tensors that would fill memory.
        return min(sum(self.held(member).tensors for member in members), MAX_TENSORS + 1)


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


def entries(source: Source, value: Value) -> dict[str | int, Value]:
    """A mapping's members under the keys that can be part of a name; of equal strings the last counts.

    Raises `CorruptFile` if one of those keys is equal, for Python, to a key of another type.
    """
    if not _is_mapping(value):
        return {}
    found: dict[str | int, Value] = {}
    others: set[bool | float | complex] = set()
    for key, member in value.pairs:
        if type(key) is str or (type(key) is int and -_LONG < key < _LONG):
            found[key] = member
        elif (number := _number(key)) is not None:
            others.add(number)
    if both := others & found.keys():
        raise CorruptFile(
            f"{source.name} has a dictionary with the key {both.pop()} and a number of another type equal to it",
            READERS_DISAGREE,
        )
    return found


_LONG = 2**63  # Python refuses to print very long integers


def _number(key: Value) -> bool | float | complex | None:
    """A key that Python may hold equal to an integer."""
    if type(key) in (bool, float):
        return bool(key) if type(key) is bool else float(key)
    if (
        type(key) is Call
        and type(key.function) is Global
        and key.function.name == "complex"
        and type(key.args) is tuple
    ):
        numbers = [part for part in key.args[:2] if type(part) in (bool, float)]
        return complex(*numbers) if numbers and len(numbers) == len(key.args) else None
    return None


# ---- Where the weights are ----


_Rivals = list[tuple[list[str], Value]]
"""What lies beside the weights and could be meant as well, with the keys that lead to it."""


def _descend(survey: _Survey, root: Value) -> tuple[list[str], Value, _Rivals]:
    """The keys that lead to the weights among a checkpoint's other contents, what lies under them, and its rivals."""
    keys: list[str] = []
    rivals: _Rivals = []
    length = 0
    seen: set[int] = set()
    while not _is_object(root):
        seen.add(id(root))
        members = {key: member for key, member in survey.entries(root).items() if id(member) not in seen}
        key = _next_key(members, survey)
        if key is None:
            return keys, root, rivals
        least = max(LEAST_RIVAL, survey.held(members[key]).tensors // RIVAL_SHARE)
        others = [other for other in members if other != key and _is_rival(other, members[other], least, survey)]
        rivals += [([*keys, str(other)], members[other]) for other in others]
        keys.append(str(key))
        length += len(keys[-1])
        if length > survey.size:
            raise _repeats(survey.source)
        root = members[key]
    raise _whole_object(survey.source, root)


def _is_rival(key: str | int, member: Value, least: int, survey: _Survey) -> bool:
    """Whether a mapping holds so many tensors that it may be a model, too, such as the student beside a teacher."""
    held = survey.held(member)
    return _is_mapping(member) and held.tensors >= least and not _is_optimizer(key, held)


def _next_key(members: dict[str | int, Value], survey: _Survey) -> str | int | None:
    beside = [member for member in members.values() if is_tensor(member)]
    holders = [key for key, member in members.items() if _is_mapping(member) and survey.held(member).tensors]
    objects = [key for key, member in members.items() if _is_object(member) and survey.held(member).storages]
    if all(is_scalar(tensor) for tensor in beside):  # a best loss or a step beside the weights is no weight
        for known in (known for keys in (holders, objects) for known in WRAPPERS if known in keys):
            return known
    if beside or not holders:
        return None
    # An optimizer keeps two or three tensors for each of the model's, but is never what is looked for.
    held = {key: survey.held(members[key]) for key in holders}
    return max(holders, key=lambda key: (not _is_optimizer(key, held[key]), held[key].tensors))


def _is_optimizer(key: str | int, held: _Holding) -> bool:
    return held.optimizer or "optim" in str(key)[:MAX_NAME].lower()


def _object_with_storages(root: Value, survey: _Survey) -> Call | None:
    """The first object of some class, in dictionaries and lists, that keeps tensors inside."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not survey.held(value).storages:
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


def _repeats(source: Source) -> UnsupportedFile:
    return UnsupportedFile(f"{source.name} repeats its own contents too often", "is it the right file?")


# ---- Their names ----


def _flatten(root: Value, survey: _Survey) -> Iterator[tuple[str, Value]]:
    """Every tensor below a value, and what stands in a tensor's place, under the keys that lead to it."""
    if is_tensor(root):
        yield "tensor", root
        return
    visits = MOST_SHARED * survey.members + SPARE_NAMES
    characters = CHARACTERS_A_BYTE * survey.size + SPARE_CHARACTERS
    path = [("", root, iter(_children(root, survey)))]
    inside = {id(root)}
    while path:
        prefix, value, children = path[-1]
        for key, child in children:
            name = f"{prefix}{key}"
            characters -= len(name)
            if len(name) > MAX_NAME:
                raise UnsupportedFile(
                    f"{survey.source.name} has a tensor under a name of over {MAX_NAME:,} characters",
                    "is it the right file?",
                )
            if visits < 0 or characters < 0:
                raise _repeats(survey.source)
            if not _is_mapping(child) and not _is_list(child):
                yield name, child
            elif id(child) not in inside:
                visits -= len(_parts(child))
                inside.add(id(child))
                path.append((f"{name}.", child, iter(_children(child, survey))))
                break
        else:
            inside.remove(id(value))
            path.pop()


def _children(value: Value, survey: _Survey) -> list[tuple[str, Value]]:
    """The members of a mapping or list that are tensors, hold some, or should have been one."""
    members = dict(enumerate(value)) if _is_list(value) else survey.entries(value)
    among_tensors = any(is_tensor(member) for member in members.values())
    return [
        (str(key), member)
        for key, member in members.items()
        if survey.held(member).tensors or (among_tensors and _is_suspect(member, survey))
    ]


def _is_suspect(value: Value, survey: _Survey) -> bool:
    """Whether a tensor's neighbour is made by an unknown function, or is an unknown object with tensors inside."""
    if not _is_object(value):
        return False
    function = value.function
    harmless = type(function) is Global and function.name in _NO_TENSORS.get(function.module, ())
    return survey.held(value).storages or not (value.creates or harmless)
