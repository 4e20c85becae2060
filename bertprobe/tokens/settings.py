"""What the small files beside a tokenizer say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from bertprobe.anatomy.families import FAMILIES
from bertprobe.checkpoint.folder import Folder, read_json
from bertprobe.errors import CorruptFile, is_text, printable, quoted

_BERT_CLASSES = (
    "BertTokenizer",
    "ElectraTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRReaderTokenizer",
)
_ROBERTA_CLASSES = ("RobertaTokenizer", "XLMRobertaTokenizer", "CamembertTokenizer")

_NAMED = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "bos_token", "eos_token")
_BERT_NAMES = dict(zip(_NAMED, ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"), strict=False))
_ROBERTA_NAMES = dict(zip(_NAMED, ("<unk>", "</s>", "<pad>", "<s>", "<mask>"), strict=False))


class Settings:
    """What the small files beside a tokenizer say, `config` being the model's; `foreign` if that lies elsewhere."""

    def __init__(self, folder: Folder, config: Mapping[str, Any], *, foreign: bool = False) -> None:
        self.folder = folder
        self.foreign = foreign
        self.config = config
        self.tokenizer = read_optional(folder, "tokenizer_config.json")
        self.model_type = str(config.get("model_type") or "")
        row = FAMILIES.get(self.model_type)
        self.tokens_of = "" if row is None else row.tokens
        named = self.tokenizer.get("tokenizer_class") or config.get("tokenizer_class") or ""
        self.tokenizer_class = str(named)
        self._class = self.tokenizer_class.removesuffix("Fast")

    def told(self, name: str) -> str:
        """A file of the tokenizer as a report tells it: by its path where that is not the model's."""
        path = self.folder.at(name)
        return printable(path if "/" in path else f"./{path}") if self.foreign else name

    @property
    def like_bert(self) -> bool:
        return self._class in _BERT_CLASSES or (not self._class and (not self.model_type or self.tokens_of == "[CLS]"))

    @property
    def like_roberta(self) -> bool:
        return self._class in _ROBERTA_CLASSES or (not self._class and self.tokens_of == "<s>")

    @property
    def segments(self) -> bool:
        """Whether the model tells a pair's texts apart."""
        inputs = self.tokenizer.get("model_input_names")
        kinds = self.config.get("type_vocab_size")
        roberta = self.like_roberta or self.tokens_of == "<s>"
        said = isinstance(inputs, list) and "token_type_ids" not in inputs
        return not (roberta or said or (isinstance(kinds, int) and kinds < 2))

    def cut_left(self, stored: str) -> bool:
        """Whether a text loses its beginning; `stored` is the side that tokenizer.json has, where no setting says."""
        return bool(self.tokenizer.get("truncation_side", stored) == "left")

    def flag(self, key: str, default: bool | None) -> bool | None:
        """A setting that is true, false or absent."""
        value = self.tokenizer.get(key)
        if value is not None and not isinstance(value, bool):
            raise CorruptFile(
                f"{self.folder.at('tokenizer_config.json')} has {key} {quoted(str(value))}", "make it true or false"
            )
        return default if value is None else value

    @cached_property
    def special_files(self) -> tuple[Mapping[str, Any], ...]:
        """What names special tokens, the last word last; where one file lists all added tokens, it alone counts."""
        if "added_tokens_decoder" in self.tokenizer:
            return (self.tokenizer,)
        return (self.tokenizer, read_optional(self.folder, "special_tokens_map.json"))

    @cached_property
    def named(self) -> dict[str, Any]:
        """The special tokens by role, each as text or as its settings."""
        found = {**(_BERT_NAMES if self.like_bert else _ROBERTA_NAMES if self.like_roberta else {})}
        for file in self.special_files:
            found |= {role: file[role] for role in _NAMED if isinstance(file.get(role), (str, dict))}
        for role in found:
            self._check_text(role, found[role])
        return found

    def _check_text(self, role: str, value: Any) -> None:
        content = value.get("content", "") if isinstance(value, dict) else value
        if not (isinstance(content, str) and is_text(content)):
            raise CorruptFile(
                f"the settings in {self.folder.address} give {role} as {quoted(str(content))}, which is no text",
                "mend tokenizer_config.json or special_tokens_map.json, or fetch them again",
            )

    def content(self, role: str) -> str:
        """The special token of a role such as `cls_token`, empty where there is none."""
        value = self.named.get(role, "")
        return str(value.get("content", "")) if isinstance(value, dict) else value


def read_optional(folder: Folder, name: str) -> Mapping[str, Any]:
    """The object in a settings file, empty where there is no such file."""
    return read_json(folder, name) if folder.is_file(name) else {}
