"""What a corpus does to every neuron: statistics and examples by reference, in one pass and bounded memory."""

from bertprobe.neurons.best import Best, Drawn, document_of, position_of, where_of
from bertprobe.neurons.bins import BINS, bins_of, edges, quantiles
from bertprobe.neurons.scan import Kept, NeuronScan, SiteScan
from bertprobe.neurons.sums import BUCKETS, Sums, buckets_of

__all__ = [
    "BINS",
    "BUCKETS",
    "Best",
    "Drawn",
    "Kept",
    "NeuronScan",
    "SiteScan",
    "Sums",
    "bins_of",
    "buckets_of",
    "document_of",
    "edges",
    "position_of",
    "quantiles",
    "where_of",
]
