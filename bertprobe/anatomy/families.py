"""`FAMILIES`: all that is known of the models that a config calls by one model_type, a row each.

Read off the models of transformers 5.23, their code and what their authors say of them. Rows are plain data: what is
done with a fact is done where it is needed, by the fact and never by the family's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bertprobe.anatomy import layouts
from bertprobe.anatomy.layouts import Layout

GENERIC = "PreTrainedTokenizerFast"


class Family(NamedTuple):
    """A row of `FAMILIES`.

    What its files are like: `name` is the model_type, and `prefixes` (blank between several) those under which its head
    classes keep the encoder in its `layout`; it may come in other layouts `also`, with the prefixes there. `within` is
    the model_type of models that hold it beside other encoders. `activation` is the one in force where a config is
    silent, None where that is its layout's; `eps` is that of its layer norms where a config is silent.

    How it runs: a `native` one is computed by `encoder`. Positions count from `padding`, which is the id its config
    class has where a config is silent, or from 0, and are `endless` where they are computed and no table of them ends.
    `segments` says whether token_type_ids tell one text from another.
    Where not `rows_are_tokens` there are fewer rows than tokens, or later ones; a prompt's rows may stand
    `prompt_first`, and it may need `more_than_text`. `mixing` is how tokens meet.

    What goes in and out: `tokens` is what its special tokens are like, `[CLS]` or `<s>`, or `characters` where no file
    is needed; `tokenizer` the class in transformers that reads its files, or those of what it lies `within`. `pooling`
    says whether models have a pooler: `yes`, `never`, not `by design`, only in its `classifiers`, or that the `first
    token` or the `end token` is taken instead; `title` is its name in such a sentence, and `nsp` says whether it was
    pretrained with next-sentence prediction.

    Where transformers has it: the `module` behind `models.`; its `base` class, where AutoModel gives another, or by
    prefix the class that it is `wrapped` in; and the classes that are its `up_projection` and its `pooler`, None where
    they are the only ones whose names end in Intermediate and in Pooler, empty where there is none.
    """

    name: str
    layout: Layout
    prefixes: str = ""
    also: tuple[tuple[Layout, str], ...] = ()
    within: str = ""
    activation: str | None = None
    eps: float = 1e-12
    native: bool = False
    padding: int | None = None
    segments: bool = True
    endless: bool = False
    rows_are_tokens: bool = True
    prompt_first: bool = False
    more_than_text: str | None = None
    mixing: str = "self-attention"
    tokens: str = ""
    tokenizer: str = ""
    title: str = ""
    pooling: str = "yes"
    nsp: bool = True
    module: str = ""
    base: str = ""
    wrapped: tuple[tuple[str, str], ...] = ()
    up_projection: str | None = None
    pooler: str | None = None

    @property
    def folder_and_file(self) -> tuple[str, str]:
        """Where its classes are written down, below transformers' `models`."""
        folder = self.name.replace("-", "_")
        place, _, file = (self.module or f"{folder}.modeling_{folder}").partition(".")
        return place, f"{file}.py"


def _roberta(name: str, prefixes: str, **facts: Any) -> Family:
    """One of RoBERTa's kin: positions from the padding on, `<s>` and `</s>`, no next-sentence prediction."""
    return Family(name, layouts.BERT, prefixes, padding=1, tokens="<s>", nsp=False, **facts)


_DPR = (
    ("question_encoder.bert_model.", "DPRQuestionEncoder"),
    ("ctx_encoder.bert_model.", "DPRContextEncoder"),
    ("span_predictor.encoder.bert_model.", "DPRReader"),
)

_ROWS = (
    Family(
        "bert",
        layouts.BERT,
        "bert",
        native=True,
        tokens="[CLS]",
        tokenizer="BertTokenizer",
        up_projection="BertIntermediate",
        pooler="BertPooler",
    ),
    _roberta("roberta", "roberta", native=True, tokenizer="RobertaTokenizer"),
    _roberta("xlm-roberta", "roberta", also=((layouts.JINA, "roberta"),), native=True, tokenizer="XLMRobertaTokenizer"),
    _roberta("camembert", "roberta", native=True, tokenizer="CamembertTokenizer"),
    Family(
        "electra",
        layouts.BERT,
        "electra",
        native=True,
        tokens="[CLS]",
        tokenizer="BertTokenizer",
        pooling="by design",
        title="ELECTRA",
    ),
    Family("mpnet", layouts.BERT, "mpnet", tokenizer="MPNetTokenizer", padding=1),
    Family("megatron-bert", layouts.BERT, "bert", tokenizer="BertTokenizer"),
    Family(
        "deberta",
        layouts.BERT,
        "deberta",
        tokenizer="DebertaTokenizer",
        pooling="classifiers",
        title="DeBERTa",
        pooler="ContextPooler",
        endless=True,
        eps=1e-7,
    ),
    Family(
        "deberta-v2",
        layouts.BERT,
        "deberta",
        tokenizer="DebertaV2Tokenizer",
        pooling="classifiers",
        title="DeBERTa",
        pooler="ContextPooler",
        endless=True,
        eps=1e-7,
    ),
    Family("layoutlm", layouts.BERT, "layoutlm", tokenizer="BertTokenizer"),
    Family("ernie", layouts.BERT, "ernie", native=True, tokens="[CLS]", tokenizer="BertTokenizer"),
    Family("convbert", layouts.BERT, "convbert", tokenizer="BertTokenizer", pooling="never"),
    Family(
        "mobilebert",
        layouts.MOBILEBERT,
        "mobilebert",
        also=((layouts.BERT, "mobilebert"),),
        tokenizer="MobileBertTokenizer",
    ),
    Family("rembert", layouts.BERT, "rembert", tokenizer="RemBertTokenizer"),
    Family("big_bird", layouts.BERT, "bert", tokenizer="BigBirdTokenizer", activation="gelu_new"),
    Family("roformer", layouts.BERT, "roformer", tokenizer="RoFormerTokenizer", pooling="never"),
    Family("esm", layouts.BERT, "esm", tokenizer="EsmTokenizer", endless=True),
    _roberta(
        "data2vec-text",
        "data2vec_text",
        native=True,
        tokenizer="RobertaTokenizer",
        module="data2vec.modeling_data2vec_text",
    ),
    Family("luke", layouts.BERT, "luke", tokenizer="LukeTokenizer", padding=1),
    Family("ibert", layouts.BERT, "ibert", tokenizer="RobertaTokenizer", padding=1),
    Family(
        "nystromformer",
        layouts.BERT,
        "nystromformer",
        tokenizer=GENERIC,
        pooling="never",
        activation="gelu_new",
        eps=1e-5,
    ),
    Family("splinter", layouts.BERT, "splinter", tokenizer="SplinterTokenizer", pooling="never"),
    Family("tapas", layouts.BERT, "tapas", tokenizer="TapasTokenizer", segments=False),
    Family(
        "bros",
        layouts.BERT,
        "bros",
        tokenizer="BertTokenizer",
        more_than_text="it wants the place of every token on a page",
    ),
    _roberta("xmod", "roberta", tokenizer="XLMRobertaTokenizer"),
    _roberta("xlm-roberta-xl", "roberta", tokenizer=GENERIC, eps=1e-5),
    _roberta("roberta-prelayernorm", "roberta_prelayernorm", tokenizer="RobertaTokenizer"),
    Family(
        "dpr",
        layouts.BERT,
        "question_encoder.bert_model ctx_encoder.bert_model span_predictor.encoder.bert_model",
        native=True,
        tokens="[CLS]",
        tokenizer="DPRQuestionEncoderTokenizer",
        pooling="first token",
        title="DPR",
        module="bert.modeling_bert",
        wrapped=_DPR,
    ),
    Family("bert-generation", layouts.BERT, "bert", tokenizer="BertGenerationTokenizer", pooling="never"),
    Family("roc_bert", layouts.BERT, "roc_bert", tokenizer="RoCBertTokenizer"),
    Family("markuplm", layouts.BERT, "markuplm", tokenizer="MarkupLMTokenizer", padding=1),
    Family("mra", layouts.BERT, "mra", tokenizer="RobertaTokenizer", pooling="never", eps=1e-5),
    Family("yoso", layouts.BERT, "yoso", tokenizer="AlbertTokenizer", pooling="never"),
    Family("fnet", layouts.BERT, "fnet", tokenizer="FNetTokenizer", activation="gelu_new", mixing="Fourier mixing"),
    Family("longformer", layouts.BERT, "longformer", tokenizer="RobertaTokenizer", padding=1),
    Family(
        "layoutlmv3", layouts.BERT, "layoutlmv3", tokenizer="LayoutLMv3Tokenizer", pooling="never", padding=1, eps=1e-5
    ),
    Family(
        "align_text_model",
        layouts.BERT,
        "align",
        within="align",
        tokenizer="BertTokenizer",
        module="align.modeling_align",
        base="AlignTextModel",
    ),
    Family(
        "blip_text_model",
        layouts.BERT,
        "bert",
        within="blip",
        tokenizer="BertTokenizer",
        module="blip.modeling_blip_text",
        base="BlipTextModel",
        up_projection="BlipTextIntermediate",
        pooler="BlipTextPooler",
    ),
    Family(
        "chinese_clip_text_model",
        layouts.BERT,
        "chinese_clip",
        within="chinese_clip",
        tokenizer="BertTokenizer",
        module="chinese_clip.modeling_chinese_clip",
        base="ChineseCLIPTextModel",
    ),
    Family(
        "clap_text_model",
        layouts.BERT,
        "clap",
        within="clap",
        tokenizer="RobertaTokenizer",
        module="clap.modeling_clap",
        base="ClapTextModel",
        up_projection="ClapTextIntermediate",
        padding=1,
    ),
    Family(
        "bridgetower_text_model",
        layouts.BERT,
        "bridgetower",
        within="bridgetower",
        tokenizer="RobertaTokenizer",
        module="bridgetower.modeling_bridgetower",
        base="BridgeTowerTextModel",
        padding=1,
        eps=1e-5,
    ),
    Family(
        "flava_text_model",
        layouts.BERT,
        "flava.text_model",
        within="flava",
        tokenizer="BertTokenizer",
        module="flava.modeling_flava",
        base="FlavaTextModel",
    ),
    Family("visual_bert", layouts.BERT, "visual_bert", tokenizer="BertTokenizer"),
    Family("lilt", layouts.LILT, "lilt", tokenizer="RobertaTokenizer", padding=1),
    Family(
        "canine",
        layouts.CANINE,
        "canine",
        tokens="characters",
        tokenizer="CanineTokenizer",
        up_projection="CanineIntermediate",
        rows_are_tokens=False,
    ),
    Family(
        "lxmert",
        layouts.LXMERT,
        "lxmert",
        tokenizer="LxmertTokenizer",
        more_than_text="it reads regions of an image beside the text",
    ),
    Family(
        "blip_2_qformer",
        layouts.Q_FORMER,
        "blip qformer",
        within="blip-2",
        tokenizer="GPT2Tokenizer",
        pooling="never",
        module="blip_2.modeling_blip_2",
        more_than_text="its queries look at an image",
    ),
    Family(
        "instructblip_qformer",
        layouts.Q_FORMER,
        "blip qformer",
        within="instructblip",
        tokenizer="GPT2Tokenizer",
        pooling="never",
        module="instructblip.modeling_instructblip",
        base="InstructBlipQFormerModel",
        more_than_text="its queries look at an image",
    ),
    Family(
        "squeezebert", layouts.SQUEEZEBERT, "transformer", tokenizer="BertTokenizer", up_projection="SqueezeBertModule"
    ),
    Family(
        "altclip_text_model",
        layouts.BERT_IN_LAYERS,
        "altclip",
        module="altclip.modeling_altclip",
        base="AltRobertaModel",
        padding=1,
        eps=1e-5,
    ),
    Family(
        "distilbert",
        layouts.DISTILBERT,
        "distilbert",
        tokenizer="BertTokenizer",
        pooling="by design",
        title="DistilBERT",
        up_projection="FFN",
    ),
    Family("albert", layouts.ALBERT, "albert", tokenizer="AlbertTokenizer", up_projection="AlbertLayer"),
    Family(
        "modernbert",
        layouts.MODERNBERT,
        "model",
        tokenizer=GENERIC,
        pooling="by design",
        title="ModernBERT",
        up_projection="ModernBertMLP",
        endless=True,
        eps=1e-5,
    ),
    Family(
        "jina_embeddings_v3",
        layouts.JINA,
        "roberta",
        tokenizer="XLMRobertaTokenizer",
        up_projection="JinaEmbeddingsV3MLP",
        endless=True,
        eps=1e-5,
    ),
    Family("eurobert", layouts.UP_AND_GATE, "model", pooling="never", up_projection="EuroBertMLP", endless=True),
    Family(
        "esmc",
        layouts.UP_AND_GATE,
        "esmc",
        tokenizer="EsmcTokenizer",
        pooling="never",
        up_projection="EsmcMLP",
        endless=True,
        eps=1e-5,
    ),
    Family(
        "ultrabert", layouts.UP_AND_GATE, "model ultrabert", pooling="never", up_projection="UltrabertMLP", endless=True
    ),
    Family(
        "neomme",
        layouts.UP_AND_GATE,
        "model",
        pooling="never",
        activation="relu2",
        up_projection="NeoMMEMLP",
        endless=True,
        eps=1e-6,
    ),
    Family(
        "nomic_bert",
        layouts.NOMIC_BERT,
        "nomic_bert",
        also=((layouts.UP_AND_GATE, "nomic_bert"),),
        tokenizer="BertTokenizer",
        pooling="never",
        up_projection="NomicBertMLP",
        endless=True,
    ),
    Family(
        "gte",
        layouts.GTE,
        "gte new",
        also=((layouts.UP_AND_GATE, "gte"),),
        tokenizer="XLMRobertaTokenizer",
        pooling="never",
        up_projection="GteMLP",
        endless=True,
    ),
    Family("new", layouts.GTE, "new", module="gte.modeling_gte", up_projection="GteMLP", endless=True),
    Family(
        "xlnet",
        layouts.XLNET,
        "transformer",
        tokenizer="XLNetTokenizer",
        up_projection="XLNetFeedForward",
        pooler="",
        endless=True,
    ),
    Family("xlm", layouts.XLM, "transformer", tokenizer="XLMTokenizer", up_projection="TransformerFFN", pooler=""),
    Family(
        "flaubert", layouts.XLM, "transformer", tokenizer="FlaubertTokenizer", up_projection="TransformerFFN", pooler=""
    ),
    Family(
        "funnel",
        layouts.FUNNEL,
        "funnel",
        tokenizer="FunnelTokenizer",
        up_projection="FunnelPositionwiseFFN",
        rows_are_tokens=False,
        endless=True,
        eps=1e-9,
    ),
    Family(
        "reformer",
        layouts.REFORMER,
        "reformer",
        tokenizer="ReformerTokenizer",
        up_projection="ReformerFeedForwardDense",
    ),
    Family(
        "cpmant",
        layouts.CPMANT,
        "cpmant",
        tokenizer="CpmAntTokenizer",
        up_projection="CpmAntDenseGatedACT",
        prompt_first=True,
        endless=True,
    ),
    Family("t5", layouts.T5, "transformer", tokenizer="T5Tokenizer", base="T5EncoderModel", endless=True, eps=1e-6),
    Family("mt5", layouts.T5, "transformer", tokenizer="T5Tokenizer", base="MT5EncoderModel", endless=True, eps=1e-6),
    Family("umt5", layouts.T5, "transformer", tokenizer=GENERIC, base="UMT5EncoderModel", endless=True, eps=1e-6),
    Family(
        "clip_text_model",
        layouts.CLIP_TEXT,
        "clip text_model",
        within="clip",
        tokenizer="CLIPTokenizer",
        pooling="end token",
        title="CLIP",
        module="clip.modeling_clip",
        up_projection="CLIPMLP",
        eps=1e-5,
    ),
    Family(
        "siglip_text_model",
        layouts.CLIP_TEXT,
        "text_model",
        within="siglip",
        tokenizer="SiglipTokenizer",
        module="siglip.modeling_siglip",
        base="SiglipTextModel",
        up_projection="SiglipMLP",
        eps=1e-6,
    ),
    Family("bart", layouts.BART, "model", tokenizer="RobertaTokenizer", rows_are_tokens=False),
    Family("mbart", layouts.BART, "model", tokenizer="MBartTokenizer", rows_are_tokens=False),
)
FAMILIES: Mapping[str, Family] = {row.name: row for row in _ROWS}


def families_of(layout: Layout) -> dict[str, str]:
    """The families that come in a layout, each with its prefixes there; first those of which it is the usual one."""
    usual = {row.name: row.prefixes for row in _ROWS if row.layout is layout}
    return usual | {row.name: prefixes for row in _ROWS for other, prefixes in row.also if other is layout}
