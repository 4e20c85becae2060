"""Which neurons tell labels of words or texts: linear probes and rankings, from sums that keep no activation."""

from bertprobe.neurons.probe.results import LayerProbe, Probes, Selection

__all__ = ["LayerProbe", "Probes", "Selection"]
