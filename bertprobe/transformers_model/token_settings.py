"""Which settings beside a tokenizer transformers is shown: those about tokens, each held against what it can be.

Read off the arguments of the classes in `staging.CLASSES`, which tests hold against the installed transformers. Paths,
positional arguments, templates and options of other programs are on no list.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from bertprobe.checkpoint.folder import Folder
from bertprobe.errors import UnsupportedFile, printable, quoted
from bertprobe.tokens.settings import read_optional

MOST_TEXT = 1_000
MOST_ITEMS = 500_000
LARGEST = 0x110000  # CANINE's ids are Unicode's

Check = Callable[[Any, str], Any]


def _scalar(value: Any, what: str) -> Any:
    """A truth value, a number of tokens or an id, a short text, or nothing."""
    if isinstance(value, str) and len(value) <= MOST_TEXT:
        return value
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) <= LARGEST):
        return value
    raise _unlike(what)


def _scalars(value: Any, what: str) -> Any:
    """The same in a list, or one alone."""
    if isinstance(value, list) and len(value) <= MOST_ITEMS:
        return [_scalar(item, what) for item in value]
    return _scalar(value, what)


def _token(value: Any, what: str) -> Any:
    """A token as text, or with how it is matched."""
    if not isinstance(value, Mapping):
        return _scalar(value, what)
    known = ("content", "lstrip", "rstrip", "normalized", "single_word", "special", "__type")
    return {name: _scalar(item, what) for name, item in value.items() if name in known}


def _tokens(value: Any, what: str) -> Any:
    """Tokens in a list, or by name."""
    if isinstance(value, list) and len(value) <= MOST_ITEMS:
        return [_token(item, what) for item in value]
    if isinstance(value, Mapping) and "content" not in value:
        return {str(_scalar(name, what)): _token(item, what) for name, item in value.items()}
    return _token(value, what)


def _numbering(value: Any, what: str) -> Any:
    """Texts with a number each, or the other way round."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or len(value) > MOST_ITEMS:
        raise _unlike(what)
    return {str(_scalar(name, what)): _scalar(item, what) for name, item in value.items()}


def _decoder(value: Any, what: str) -> Any:
    """Tokens by id."""
    if not isinstance(value, Mapping) or len(value) > MOST_ITEMS:
        raise _unlike(what)
    if not all(re.fullmatch(r"[0-9]{1,7}", id) for id in value):
        raise _unlike(what)
    return {id: _token(item, what) for id, item in value.items()}


def _one_of(choices: Mapping[str, tuple[Any, ...]]) -> Check:
    """Settings of a program that splits words: none that names a file, or is handed to it as an option."""

    def check(value: Any, what: str) -> Any:
        if value is not None and not isinstance(value, Mapping):
            raise _unlike(what)
        for name, item in (value or {}).items():
            if name not in choices or item not in choices[name]:
                raise UnsupportedFile(
                    f"{what} asks for {quoted(name)} {quoted(str(item))}",
                    "such programs are run here with dictionaries that are installed, and no options",
                )
        return value

    return check


_TRUTH = (True, False)
_SCALARS = """
do_lower_case do_lowercase do_lowercase_and_remove_accent strip_accents keep_accents remove_space clean_text
tokenize_chinese_chars do_basic_tokenize wordpieces_prefix split_by_punct normalization
do_word_tokenize do_subword_tokenize word_tokenizer_type subword_tokenizer_type
add_prefix_space trim_offsets add_bos_token add_eos_token split_special_tokens legacy legacy_behaviour
unk_id extra_ids offset src_lang tgt_lang language_codes task max_entity_length max_mention_length
truncation_side token_type_ids_pattern token_type_ids_include_special_tokens special_tokens_pattern
max_depth max_width pad_width pad_token_label only_label_first_subword
cell_trim_length max_column_id max_row_id strip_column_names update_answer_coordinates
min_question_length max_question_length
"""
SETTINGS: dict[str, Check] = {
    **dict.fromkeys(_SCALARS.split(), _scalar),
    **dict.fromkeys(("model_input_names", "never_split", "cls_token_box", "sep_token_box", "pad_token_box"), _scalars),
    **dict.fromkeys(("lang2id", "id2lang", "tags_dict"), _numbering),
    **dict.fromkeys(("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"), _tokens),
    "mask_token_sent": _token,
    "added_tokens_decoder": _decoder,
    "mecab_kwargs": _one_of({"mecab_dic": (None, "ipadic", "unidic_lite", "unidic"), "normalize_text": _TRUTH}),
    "sudachi_kwargs": _one_of(
        {
            "sudachi_split_mode": ("A", "B", "C"),
            "sudachi_dict_type": ("small", "core", "full"),
            "trim_whitespace": _TRUTH,
            "normalize_text": _TRUTH,
        }
    ),
    "jumanpp_kwargs": _one_of({"trim_whitespace": _TRUTH, "normalize_text": _TRUTH}),
}
# Arguments of the classes that change no id: how text is made of ids again, and what only a padded batch would show.
NEEDLESS = ("errors", "clean_up_tokenization_spaces", "use_default_system_prompt", "padding_side", "model_max_length")
# Files are found by their names, never where a setting says.
_PLACES = ("vocab", "merges", "entity_vocab")


def token_settings(folder: Folder, tokenizer_class: Any) -> dict[str, Any]:
    """What tokenizer_config.json says about tokens."""
    what = f"tokenizer_config.json of {printable(folder.address)}"
    found = {}
    for key, value in read_optional(folder, "tokenizer_config.json").items():
        if key in SETTINGS or (key.endswith("_token") and isinstance(value, (str, Mapping))):
            found[key] = SETTINGS.get(key, _token)(value, f"{quoted(key)} in the {what}")
        elif value and not is_judged(key) and key in inspect.signature(tokenizer_class.__init__).parameters:
            raise UnsupportedFile(
                f"the {what} sets {quoted(key)}, of which it is not known what it does to the tokens",
                "please report this model",
            )
    return found


def is_judged(argument: str) -> bool:
    """Whether an argument of a tokenizer's class is on a list, or one that is never taken from a file."""
    is_place = argument in _PLACES or argument.endswith("_file") or argument.startswith("_")
    return argument in SETTINGS or argument.endswith("_token") or argument in NEEDLESS or is_place


def special_tokens(folder: Folder) -> dict[str, Any]:
    """What special_tokens_map.json says about tokens."""
    what = f"special_tokens_map.json of {printable(folder.address)}"
    return {
        key: _tokens(value, f"{quoted(key)} in the {what}")
        for key, value in read_optional(folder, "special_tokens_map.json").items()
        if key.endswith("_token") or key in ("additional_special_tokens", "extra_special_tokens")
    }


def added_tokens(folder: Folder) -> Any:
    """The ids that added_tokens.json gives to tokens."""
    return _numbering(
        read_optional(folder, "added_tokens.json"), f"the added_tokens.json of {printable(folder.address)}"
    )


def _unlike(what: str) -> UnsupportedFile:
    return UnsupportedFile(f"{what} is not what such a setting can be", "mend it, or fetch the file again")
