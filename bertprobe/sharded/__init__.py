"""A run over a corpus: cut into shards that are computed one by one, here or in parts elsewhere, and gone on with."""

from bertprobe.sharded.begin import decided, differing, read_begun
from bertprobe.sharded.elsewhere import Actors
from bertprobe.sharded.manifest import ACTIVATIONS, NAME, NEURONS, Kind, Manifest
from bertprobe.sharded.merge import check_alike, check_done, in_order, joined, worst_of
from bertprobe.sharded.part import WHOLE, Part
from bertprobe.sharded.stamp import Stamp, stamp_of

__all__ = [
    "ACTIVATIONS",
    "NAME",
    "NEURONS",
    "WHOLE",
    "Actors",
    "Kind",
    "Manifest",
    "Part",
    "Stamp",
    "check_alike",
    "check_done",
    "decided",
    "differing",
    "in_order",
    "joined",
    "read_begun",
    "stamp_of",
    "worst_of",
]
