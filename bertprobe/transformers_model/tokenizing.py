"""transformers' own tokenizers, for what the `tokenizers` library alone does not read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bertprobe.checkpoint import Checkpoint
from bertprobe.checkpoint.folder import Folder
from bertprobe.errors import BertprobeError, NotFound, UnsupportedFile, printable
from bertprobe.tokens.fast import lower_first
from bertprobe.transformers_model.door import shut
from bertprobe.transformers_model.manners import borrowed, refused
from bertprobe.transformers_model.staging import class_name, staged

if TYPE_CHECKING:
    from bertprobe.tokens import Encoded, Text


class TransformersTokenizer:
    """transformers' tokenizer as a `tokens.Tokenizer`."""

    def __init__(self, tokenizer: Any, where: str = "") -> None:
        self.name = f"transformers' {type(tokenizer).__name__}{where and f' in {printable(where)}'}"
        self.notes: tuple[str, ...] = ()
        self._tokenizer = tokenizer

    @cached_property
    @shut()
    def vocab_size(self) -> int:
        """One more than the largest id it can give."""
        try:
            ids = self._tokenizer.get_vocab().values()
        except NotImplementedError:  # CANINE's vocabulary is Unicode
            ids = ()
        return max(ids, default=int(self._tokenizer.vocab_size) - 1) + 1

    @cached_property
    def special_tokens(self) -> frozenset[str]:
        """The tokens that have a role of their own."""
        return frozenset(map(str, self._tokenizer.all_special_tokens))

    @property
    def mask_token(self) -> str:
        """The token that stands for a word to be guessed, empty where there is none."""
        return str(getattr(self._tokenizer, "mask_token", None) or "")

    @shut()
    def piece(self, id: int) -> str:
        """The piece of an id as text, empty where there is none."""
        return str(self._tokenizer.convert_ids_to_tokens(id) or "")

    @shut()
    def lower_first(self) -> None:
        """Has text lower-cased before all else; raises `UnsupportedFile` where the tokenizer has no such step."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UnsupportedFile(
                f"{self.name} cannot be made to lower-case", "lower-case the texts, and take `vector=mean` or `cls`"
            )
        lower_first(backend)

    @shut()
    def encode(self, text: str, pair: str | None = None, *, longest: int | None = None) -> Encoded:
        """One text, or two as a pair, cut to `longest` tokens if that is given.

        Raises `UnsupportedFile` where the tokenizer takes more than text, `BertprobeError` where `longest` has no room
        for the special tokens.
        """
        import numpy as np

        from bertprobe.tokens import Encoded

        found = self._called(text, pair)
        ids: list[int] = found["input_ids"]
        cut = 0 if longest is None else max(len(ids) - longest, 0)
        if cut:
            found = self._called(text, pair, truncation=True, max_length=longest)
            cut = len(ids) - len(found["input_ids"])
            ids = found["input_ids"]
        if longest is not None and len(ids) > longest:
            raise BertprobeError(f"{longest} tokens have no room for the special tokens", "allow for more tokens")
        segments = found.get("token_type_ids", [0] * len(ids))
        pieces = tuple(str(piece) for piece in self._tokenizer.convert_ids_to_tokens(ids))
        return Encoded(np.array(ids, np.int64), np.array(segments, np.int64), pieces, cut)

    def encode_many(self, texts: Sequence[Text], *, longest: int | None = None) -> list[Encoded]:
        """The same for many texts or pairs."""
        split = (item if isinstance(item, tuple) else (item, None) for item in texts)
        return [self.encode(text, pair, longest=longest) for text, pair in split]

    def _called(self, text: str, pair: str | None, **options: Any) -> Any:
        try:
            with borrowed("cpu"):
                return self._tokenizer(text, pair, padding=False, **options)
        except Exception as error:
            raise refused(f"{self.name} cannot turn this text into tokens", error) from error


@shut()
def tokenizer(checkpoint: Checkpoint) -> TransformersTokenizer:
    """transformers' own tokenizer, from the files beside the weights, or where they were said to lie, and no others.

    Raises:
        NotFound: there are no tokenizer files; transformers would make one up that knows five words.
        UnsupportedFile: transformers cannot read them, or they ask for more than a tokenizer of ours needs.
    """
    folder = checkpoint.tokenizer
    made = _class(class_name(checkpoint), folder)
    with staged(folder, made) as stage:
        try:
            with borrowed("cpu"):
                found = made.from_pretrained(str(stage), local_files_only=True, trust_remote_code=False)
        except Exception as error:
            what = f"transformers cannot read the tokenizer of {printable(folder.address)}"
            raise refused(what, error, (str(stage), folder.address)) from error
    return TransformersTokenizer(found, folder.address if checkpoint.has_foreign_tokenizer else "")


def _class(name: str, folder: Folder) -> Any:
    """A tokenizer's class, once it is certain that the folder has a file for it."""
    import transformers

    try:
        made = getattr(transformers, name)
        files = made.vocab_files_names  # where a package is missing, there is only a dummy, which says so when asked
    except Exception as error:
        raise refused(f"transformers cannot read the tokenizer of {printable(folder.address)}", error) from error
    names = {*files.values(), "tokenizer.json"} if files else set()
    if names and not any(folder.is_file(name) for name in names):
        raise NotFound(
            f"{printable(folder.address)} has no tokenizer: none of {', '.join(sorted(names))}",
            "put the model's own beside its weights, or name its folder or file: `tokenizer=`",
        )
    return made
