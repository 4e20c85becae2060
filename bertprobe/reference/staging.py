"""A folder made for transformers' tokenizers: files under names that are on a list, settings that are on a list.

transformers reads small files beside a tokenizer by itself, and makes arguments of whatever they say: paths, positional
arguments, options of the programs that split Japanese. So it is never shown the checkpoint's folder, but one of our own
with a copy of the vocabulary in it, and of the settings what is known to be about tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bertprobe.checkpoint import Checkpoint
from bertprobe.checkpoint.folder import Folder, check_small
from bertprobe.errors import NotFound, UnsupportedFile, printable, quoted
from bertprobe.reference.token_settings import added_tokens, special_tokens, token_settings
from bertprobe.tokens.settings import read_optional

# Tokenizers of transformers that text encoders come with, and the model_types that take one without saying so.
CLASSES = {
    "AlbertTokenizer": "albert yoso",
    "BarthezTokenizer": "",
    "BartphoTokenizer": "",
    "BartTokenizer": "",
    "BertGenerationTokenizer": "bert-generation",
    "BertJapaneseTokenizer": "",
    "BertTokenizer": "bert bros convbert distilbert electra ernie layoutlm megatron-bert nomic_bert squeezebert "
    "visual_bert align blip chinese_clip flava",
    "BertweetTokenizer": "",
    "BigBirdTokenizer": "big_bird",
    "BlenderbotTokenizer": "",
    "ByT5Tokenizer": "",
    "CamembertTokenizer": "camembert",
    "CanineTokenizer": "canine",
    "CLIPTokenizer": "clip",
    "ConvBertTokenizer": "",
    "CpmAntTokenizer": "cpmant",
    "CpmTokenizer": "",
    "DebertaTokenizer": "deberta",
    "DebertaV2Tokenizer": "deberta-v2",
    "DistilBertTokenizer": "",
    "DPRContextEncoderTokenizer": "",
    "DPRQuestionEncoderTokenizer": "dpr",
    "DPRReaderTokenizer": "",
    "ElectraTokenizer": "",
    "EsmTokenizer": "esm",
    "EsmcTokenizer": "esmc",
    "FlaubertTokenizer": "flaubert",
    "FNetTokenizer": "fnet",
    "FunnelTokenizer": "funnel",
    "GPT2Tokenizer": "blip-2 instructblip",
    "HerbertTokenizer": "",
    "LayoutLMTokenizer": "",
    "LayoutLMv3Tokenizer": "layoutlmv3",
    "LayoutXLMTokenizer": "",
    "LEDTokenizer": "",
    "LlamaTokenizer": "",
    "LongformerTokenizer": "",
    "LukeTokenizer": "luke",
    "LxmertTokenizer": "lxmert",
    "MarkupLMTokenizer": "markuplm",
    "MBart50Tokenizer": "",
    "MBartTokenizer": "mbart",
    "MLukeTokenizer": "",
    "MobileBertTokenizer": "mobilebert",
    "MPNetTokenizer": "mpnet",
    "NllbTokenizer": "",
    "PegasusTokenizer": "",
    "PhobertTokenizer": "",
    "PLBartTokenizer": "",
    "ReformerTokenizer": "reformer",
    "RemBertTokenizer": "rembert",
    "RobertaTokenizer": "bart bridgetower clap data2vec-text ibert lilt longformer mra roberta roberta-prelayernorm",
    "RoCBertTokenizer": "roc_bert",
    "RoFormerTokenizer": "roformer",
    "SiglipTokenizer": "siglip",
    "SplinterTokenizer": "splinter",
    "SqueezeBertTokenizer": "",
    "T5Tokenizer": "mt5 t5",
    "TapasTokenizer": "tapas",
    "XLMRobertaTokenizer": "gte jina_embeddings_v3 xlm-roberta xmod",
    "XLMTokenizer": "xlm",
    "XLNetTokenizer": "xlnet",
}
# What reads a tokenizer.json as it stands; these model_types take it whatever the files say.
GENERIC = "PreTrainedTokenizerFast"
_GENERIC_NAMES = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")
_GENERIC_TYPES = ("modernbert", "nystromformer", "umt5", "xlm-roberta-xl")

FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "dict.txt",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "entity_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
)


def class_name(checkpoint: Checkpoint) -> str:
    """The tokenizer's class, as transformers itself would choose it, by a name that is on our list.

    Raises `UnsupportedFile` for another one, unless a tokenizer.json says all there is to know.
    """
    config, folder = checkpoint.config or {}, checkpoint.settings
    model_type = config.get("model_type")
    said = read_optional(folder, "tokenizer_config.json").get("tokenizer_class") or config.get("tokenizer_class")
    name = str(said or "").removesuffix("Fast")
    if model_type in _GENERIC_TYPES or name in _GENERIC_NAMES:
        return GENERIC
    if not name:
        return next((name for name, types in CLASSES.items() if model_type in types.split()), GENERIC)
    if name not in CLASSES and not folder.is_file("tokenizer.json"):
        raise UnsupportedFile(
            f"the tokenizer of {printable(folder.address)} is a {quoted(name)}, which is none that is known here",
            "have transformers write a tokenizer.json beside it (save_pretrained)",
        )
    return name if name in CLASSES else GENERIC


@contextmanager
def staged(folder: Folder, tokenizer_class: Any) -> Iterator[Path]:
    """A folder with what of a checkpoint's tokenizer may be shown to transformers; it is gone afterwards.

    Raises:
        NotFound: a file cannot be read.
        CorruptFile: settings are not JSON.
        UnsupportedFile: a setting that the class knows is not on the list, or a value is not what it can be.
    """
    made = {
        "tokenizer_config.json": token_settings(folder, tokenizer_class),
        "special_tokens_map.json": special_tokens(folder),
        "added_tokens.json": added_tokens(folder),
    }
    try:
        with TemporaryDirectory(prefix="bertprobe-") as stage:
            for name in FILES:
                if folder.is_file(name):
                    source = folder.source(name)
                    check_small(source.address, source.size)
                    Path(stage, name).write_bytes(source.read(0, source.size))
            for name, settings in made.items():
                if folder.is_file(name):
                    Path(stage, name).write_text(json.dumps(settings), encoding="utf-8")
            yield Path(stage)
    except OSError as error:
        raise NotFound(
            f"the tokenizer of {printable(folder.address)} cannot be copied ({error.strerror})",
            "check its permissions, and that there is room for temporary files",
        ) from error
