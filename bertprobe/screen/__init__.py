"""A causal screen: what taking out every neuron would change in what a model puts out.

One backward pass a text tells it of all neurons to first order; the strongest, and some drawn from the rest, are then
taken out one by one, and how the two rankings agree is told beside.
"""

from bertprobe.screen.job import Options, Screen, ScreenJob, layers_of, output_by_default, prepare_screen

__all__ = ["Options", "Screen", "ScreenJob", "layers_of", "output_by_default", "prepare_screen"]
