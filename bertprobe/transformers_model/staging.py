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

from bertprobe.anatomy.families import FAMILIES, GENERIC
from bertprobe.checkpoint import Checkpoint
from bertprobe.checkpoint.folder import Folder, check_small
from bertprobe.errors import NotFound, UnsupportedFile, printable, quoted
from bertprobe.filenames import TOKENIZER, VOCABULARIES
from bertprobe.tokens.settings import read_optional
from bertprobe.transformers_model.token_settings import added_tokens, special_tokens, token_settings

# Tokenizers of transformers that text encoders come with.
CLASSES = frozenset(
    [
        "AlbertTokenizer",
        "BarthezTokenizer",
        "BartphoTokenizer",
        "BartTokenizer",
        "BertGenerationTokenizer",
        "BertJapaneseTokenizer",
        "BertTokenizer",
        "BertweetTokenizer",
        "BigBirdTokenizer",
        "BlenderbotTokenizer",
        "ByT5Tokenizer",
        "CamembertTokenizer",
        "CanineTokenizer",
        "CLIPTokenizer",
        "ConvBertTokenizer",
        "CpmAntTokenizer",
        "CpmTokenizer",
        "DebertaTokenizer",
        "DebertaV2Tokenizer",
        "DistilBertTokenizer",
        "DPRContextEncoderTokenizer",
        "DPRQuestionEncoderTokenizer",
        "DPRReaderTokenizer",
        "ElectraTokenizer",
        "EsmTokenizer",
        "EsmcTokenizer",
        "FlaubertTokenizer",
        "FNetTokenizer",
        "FunnelTokenizer",
        "GPT2Tokenizer",
        "HerbertTokenizer",
        "LayoutLMTokenizer",
        "LayoutLMv3Tokenizer",
        "LayoutXLMTokenizer",
        "LEDTokenizer",
        "LlamaTokenizer",
        "LongformerTokenizer",
        "LukeTokenizer",
        "LxmertTokenizer",
        "MarkupLMTokenizer",
        "MBart50Tokenizer",
        "MBartTokenizer",
        "MLukeTokenizer",
        "MobileBertTokenizer",
        "MPNetTokenizer",
        "NllbTokenizer",
        "PegasusTokenizer",
        "PhobertTokenizer",
        "PLBartTokenizer",
        "ReformerTokenizer",
        "RemBertTokenizer",
        "RobertaTokenizer",
        "RoCBertTokenizer",
        "RoFormerTokenizer",
        "SiglipTokenizer",
        "SplinterTokenizer",
        "SqueezeBertTokenizer",
        "T5Tokenizer",
        "TapasTokenizer",
        "XLMRobertaTokenizer",
        "XLMTokenizer",
        "XLNetTokenizer",
    ]
)
# What reads a tokenizer.json as it stands; families whose row says so take it whatever the files say.
_GENERIC_NAMES = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")
# The tokenizer of a model_type that does not say so itself.
_BY_TYPE = {row.within or row.name: row.tokenizer for row in FAMILIES.values() if row.tokenizer}


def class_name(checkpoint: Checkpoint) -> str:
    """The tokenizer's class, as transformers itself would choose it, by a name that is on our list.

    Raises `UnsupportedFile` for another one, unless a tokenizer.json says all there is to know.
    """
    config, folder = checkpoint.config or {}, checkpoint.tokenizer
    model_type = str(config.get("model_type"))
    said = read_optional(folder, "tokenizer_config.json").get("tokenizer_class") or config.get("tokenizer_class")
    name = str(said or "").removesuffix("Fast")
    if _BY_TYPE.get(model_type) == GENERIC or name in _GENERIC_NAMES:
        return GENERIC
    if not name:
        return _BY_TYPE.get(model_type, GENERIC)
    if name not in CLASSES and not folder.is_file(TOKENIZER):
        raise UnsupportedFile(
            f"the tokenizer of {printable(folder.address)} is a {quoted(name)}, which is none that is known here",
            "have transformers write a tokenizer.json beside it (save_pretrained)",
        )
    return name if name in CLASSES else GENERIC


def _content(folder: Folder, name: str) -> bytes:
    source = folder.source(name)
    check_small(source.address, source.size)
    return source.read(0, source.size)


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
            for name in VOCABULARIES:
                if folder.is_file(name):
                    Path(stage, name).write_bytes(_content(folder, name))
            for name, settings in made.items():
                if folder.is_file(name):
                    Path(stage, name).write_text(json.dumps(settings), encoding="utf-8")
            yield Path(stage)
    except OSError as error:
        raise NotFound(
            f"the tokenizer of {printable(folder.address)} cannot be copied ({error.strerror})",
            "check its permissions, and that there is room for temporary files",
        ) from error
