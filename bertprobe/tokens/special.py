"""Special and added tokens: whole words of the tokenizer, and a text's beginning and end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bertprobe.errors import CorruptFile, is_text, printable
from bertprobe.tokens.settings import Settings, read_optional

if TYPE_CHECKING:
    import tokenizers


ADDED = "added_tokens.json"


class Special(NamedTuple):
    """Special tokens: by a role such as `cls_token`, and others."""

    roles: Mapping[str, str]
    others: tuple[str, ...] = ()


NO_SPECIAL = Special({})


def add_tokens(backend: tokenizers.Tokenizer, settings: Settings) -> None:
    """Makes added tokens whole words of the tokenizer, also where a text spells them out.

    What settings list is added; of the tokens they only name by role, those that the vocabulary has.
    """
    there = {token.content for token in backend.get_added_tokens_decoder().values()}
    wanted = {token.content: token for token in _listed(settings)}
    for role, value in settings.named.items():
        content = settings.content(role)
        if content not in wanted and backend.token_to_id(content) is not None:
            wanted[content] = _added(
                {"content": content, **(value if isinstance(value, dict) else {}), "special": True}
            )
    backend.add_tokens([token for content, token in wanted.items() if content and content not in there])


def _listed(settings: Settings) -> Iterator[tokenizers.AddedToken]:
    """The added tokens that settings spell out, in the order of their ids, then those that they name besides."""
    decoder = settings.tokenizer.get("added_tokens_decoder")
    try:
        if isinstance(decoder, dict):
            for _, value in sorted(decoder.items(), key=lambda item: int(item[0])):
                yield _added(value)
        else:
            specials = {settings.content(role) for role in settings.named}
            for content, _ in sorted(read_optional(settings.folder, ADDED).items(), key=lambda item: int(item[1])):
                special = content in specials
                yield _added({"content": content, "normalized": not special, "special": special})
        for file in settings.special_files:
            for key in ("extra_special_tokens", "additional_special_tokens"):
                for value in file[key] if isinstance(file.get(key), list) else ():
                    yield _added(value if isinstance(value, dict) else {"content": str(value)})
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise CorruptFile(
            f"the added tokens in {settings.folder.address} are not a list of tokens with ids "
            f"({printable(str(error)[:100])})",
            f"mend {'tokenizer_config.json' if decoder else ADDED}, or fetch it again",
        ) from error


def special_of(settings: Settings) -> Special:
    """The special tokens that settings give a role, and those that they only list."""
    found: list[str] = []
    for file in settings.special_files:
        for key in ("extra_special_tokens", "additional_special_tokens"):
            listed = file.get(key)
            values = listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else ()
            found += [str(value.get("content", "") if isinstance(value, dict) else value) for value in values]
    return Special({role: settings.content(role) for role in settings.named}, tuple(found))


def _added(value: Mapping[str, Any]) -> tokenizers.AddedToken:
    from tokenizers import AddedToken

    special, content = bool(value.get("special", True)), str(value["content"])
    if not is_text(content):
        raise ValueError(f"{content!r} is no text")
    return AddedToken(
        content,
        single_word=bool(value.get("single_word", False)),
        lstrip=bool(value.get("lstrip", False)),
        rstrip=bool(value.get("rstrip", False)),
        normalized=bool(value.get("normalized", not special)),
        special=special,
    )


def add_special_tokens(backend: tokenizers.Tokenizer, settings: Settings) -> None:
    """Has a text begin and end with the special tokens its family wants, where the vocabulary has them."""
    from tokenizers import processors

    tokens = [settings.content(role) for role in ("sep_token", "cls_token")]
    ids = [backend.token_to_id(token) for token in tokens]
    if None in ids or not (settings.like_bert or settings.like_roberta):
        return
    sep, cls = zip(tokens, cast(list[int], ids), strict=True)
    backend.post_processor = (processors.BertProcessing if settings.like_bert else processors.RobertaProcessing)(
        sep, cls
    )
