"""The vocabulary lens: hidden states and neurons read as entries of the vocabulary, beside what chance would read.

Hidden states of any layer go through the masked-language-model head, which is made for the last one alone; a neuron's
output column goes through the same, and its input row is held against the word embeddings. Beside every list stands a
null: what random directions of the same norm come to, rank by rank. Sources: nostalgebraist, "interpreting GPT: the
logit lens", 2020; Geva et al., "Transformer Feed-Forward Layers Are Key-Value Memories", 2021, and "Transformer
Feed-Forward Layers Build Predictions by Promoting Concepts in the Vocabulary Space", 2022.

Letters: n rows, R random directions, H hidden size, E width of the embeddings, V entries of the vocabulary.
"""

from bertprobe.lens.neuron import NeuronLens, NeuronReader, WordLists, lens_of_neurons
from bertprobe.lens.null import Null
from bertprobe.lens.ranking import VocabularyEntry
from bertprobe.lens.text import Guess, LayerLens, Lensed, LensWish, PositionLens, RankOfWord, TextLens, lens_of_texts
from bertprobe.lens.vocabulary import Vocabulary, open_vocabulary, plain_vocabulary

__all__ = [
    "Guess",
    "LayerLens",
    "LensWish",
    "Lensed",
    "NeuronLens",
    "NeuronReader",
    "Null",
    "PositionLens",
    "RankOfWord",
    "TextLens",
    "Vocabulary",
    "VocabularyEntry",
    "WordLists",
    "lens_of_neurons",
    "lens_of_texts",
    "open_vocabulary",
    "plain_vocabulary",
]
