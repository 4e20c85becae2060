"""`FAMILIES`: how each layout spells its modules, and what else a tensor's name gives away.

Read off tiny models of 70 encoders of transformers 5.23, as their files spell them and as older files on the Hub do. A
row is recognised by tensor names; only where they are shared with other models has the config a say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

# Digits as PyTorch writes them: of layer.03, or of other scripts' digits, it would know nothing.
LAYER = r"(?P<layer>0|[1-9][0-9]{0,8})"
INDEX = r"(?P<index>0|[1-9][0-9]{0,8})"
DEEPEST = 32  # modules around an encoder
BERT_LIKE = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "electra": "electra",
    "mpnet": "mpnet",
    "megatron-bert": "bert",
    "deberta": "deberta",
    "deberta-v2": "deberta",
    "layoutlm": "layoutlm",
    "ernie": "ernie",
    "convbert": "convbert",
    "mobilebert": "mobilebert",
    "rembert": "rembert",
    "big_bird": "bert",
    "roformer": "roformer",
    "esm": "esm",
    "data2vec-text": "data2vec_text",
    "luke": "luke",
    "ibert": "ibert",
    "nystromformer": "nystromformer",
    "splinter": "splinter",
    "tapas": "tapas",
    "bros": "bros",
    "xmod": "roberta",
    "xlm-roberta-xl": "roberta",
    "roberta-prelayernorm": "roberta_prelayernorm",
    "dpr": "question_encoder.bert_model ctx_encoder.bert_model span_predictor.encoder.bert_model",
    "bert-generation": "bert",
    "roc_bert": "roc_bert",
    "markuplm": "markuplm",
    "mra": "mra",
    "yoso": "yoso",
    "fnet": "fnet",
    "longformer": "longformer",
    "layoutlmv3": "layoutlmv3",
    "align_text_model": "align",
    "blip_text_model": "bert",
    "chinese_clip_text_model": "chinese_clip",
    "clap_text_model": "clap",
    "bridgetower_text_model": "bridgetower",
    "flava_text_model": "flava.text_model",
    "visual_bert": "visual_bert",
}

# Families whose class in transformers has no pooler, though their layout has a name for one.
WITHOUT_POOLER = (
    "convbert", "roformer", "nystromformer", "splinter", "bert-generation", "mra", "yoso", "nomic_bert", "gte",
    "layoutlmv3", "eurobert", "neomme", "esmc", "ultrabert", "blip_2_qformer", "instructblip_qformer",
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A row of `FAMILIES`: how one layout spells its modules.

    `up` are patterns of the up-projection's path behind the prefix, with groups `layer`, and `stack` and `index` where
    a layer number alone is not unique; `gate` likewise. `fused` says which half of one matrix is activated. `sign` must
    be found in the names too where `up` alone could be somebody else's. `model_types` maps the config's name to the
    prefixes (blank between several) under which its head classes keep the encoder. A row that `needs_config` spells its
    layers as others do, and is believed only when the config says one of these types. The layers of a `narrow` one are
    narrower than its hidden states.
    """

    name: str
    model_types: Mapping[str, str]
    up: tuple[str, ...]
    gate: tuple[str, ...] = ()
    fused: str | None = None
    sign: str | None = None
    pooler: str | None = r"pooler\.dense"
    activation: tuple[str, ...] = ("hidden_act",)
    default: str | None = "gelu"
    needs_config: bool = False
    canonical: bool = False
    position: str = "between attention and output"
    narrow: bool = False

    @cached_property
    def patterns(self) -> tuple[tuple[str, re.Pattern[str]], ...]:
        """Role and compiled pattern of every module, with the prefix in front and the tensor's kind behind."""
        spelled = [("gate", path) for path in self.gate] + [("intermediate", path) for path in self.up]
        return tuple((role, _tensor_pattern(path)) for role, path in spelled)

    @cached_property
    def pooler_pattern(self) -> re.Pattern[str] | None:
        return _tensor_pattern(self.pooler) if self.pooler else None

    @property
    def path(self) -> str:
        """The up-projection's path as a reader would write it: `encoder.layer.N.intermediate.dense`."""
        path = self.up[0].replace(LAYER, "N").replace(INDEX, "M")
        path = re.sub(r"\(\?P<\w+>([^()]*)\)", r"\1", path)
        path = re.sub(r"\(\?:[^()]*\)\?", "", path)
        path = re.sub(r"\(\?:0\|[^()]*\)", "M", path)
        path = re.sub(r"\(\?:([^()]*)\)", lambda match: "{" + match[1].replace("|", ",") + "}", path)
        return path.replace("\\", "")


def _tensor_pattern(path: str) -> re.Pattern[str]:
    # A segment cannot contain a dot, so the prefix matches in one way only and a hostile name costs no backtracking;
    # nor a search from each of hundreds of segments, for no encoder lies as deep in other modules.
    return re.compile(rf"(?P<prefix>(?:[^.]+\.){{0,{DEEPEST}}}?)(?P<path>{path})\.(?P<kind>weight|bias)")


FAMILIES: tuple[Family, ...] = (
    Family(
        "mobilebert",
        {"mobilebert": "mobilebert"},
        up=(rf"encoder\.layer\.{LAYER}\.(?:(?P<stack>ffn)\.{INDEX}\.)?intermediate\.dense",),
        sign=r"encoder\.layer\.\d+\.ffn\.\d+\.intermediate\.dense",
        default="relu",
        narrow=True,
    ),
    Family(
        "lilt",
        {"lilt": "lilt"},
        up=(rf"encoder\.layer\.{LAYER}\.(?:(?P<stack>layout)_)?intermediate\.dense",),
        sign=r"layout_intermediate\.dense",
    ),
    Family(
        "canine",
        {"canine": "canine"},
        up=(rf"(?:(?P<stack>initial_char_encoder|final_char_encoder)|encoder)\.layer\.{LAYER}\.intermediate\.dense",),
        sign=r"initial_char_encoder\.layer\.",
    ),
    Family(
        "lxmert",
        {"lxmert": "lxmert"},
        up=(
            rf"encoder\.(?:layer|(?P<stack>r_layers))\.{LAYER}\.intermediate\.dense",
            rf"encoder\.(?P<stack>x_layers)\.{LAYER}\.(?P<side>lang|visn)_inter\.dense",
        ),
        sign=r"encoder\.x_layers\.",
    ),
    Family(
        "q-former",
        {"blip_2_qformer": "blip qformer", "instructblip_qformer": "blip qformer"},
        up=(rf"encoder\.layer\.{LAYER}\.intermediate(?:_(?P<stack>query))?\.dense",),
        sign=r"intermediate_query\.dense",
    ),
    Family(
        "squeezebert",
        {"squeezebert": "transformer"},
        up=(rf"encoder\.layers\.{LAYER}\.intermediate\.conv1d",),
    ),
    Family(
        "bert, encoder.layers",
        {"altclip_text_model": "altclip"},
        up=(rf"encoder\.layers\.{LAYER}\.intermediate\.dense",),
    ),
    Family(
        "bert",
        BERT_LIKE,
        up=(rf"encoder\.layer\.{LAYER}\.intermediate\.dense",),
        pooler=r"pooler(?:\.dense)?",
        canonical=True,
    ),
    Family(
        "distilbert",
        {"distilbert": "distilbert"},
        up=(rf"transformer\.layer\.{LAYER}\.ffn\.lin1",),
        pooler=None,
        activation=("activation",),
    ),
    Family(
        "albert",
        {"albert": "albert"},
        up=(rf"encoder\.albert_layer_groups\.(?:0|(?P<index>[1-9][0-9]{{0,8}}))\.albert_layers\.{LAYER}\.ffn",),
        pooler=r"pooler",
        default="gelu_new",
    ),
    Family(
        "modernbert",
        {"modernbert": "model"},
        up=(rf"layers\.{LAYER}\.mlp\.Wi",),
        fused="first half activated",
        pooler=None,
        activation=("hidden_activation",),
    ),
    Family(
        "gte",
        {"gte": "gte new", "new": "new"},
        up=(rf"encoder\.layer\.{LAYER}\.mlp\.up_gate_proj",),
        fused="second half activated",
    ),
    Family(
        "nomic-bert",
        {"nomic_bert": "nomic_bert"},
        up=(rf"encoder\.layers\.{LAYER}\.mlp\.fc11",),
        gate=(rf"encoder\.layers\.{LAYER}\.mlp\.fc12",),
        activation=("hidden_act", "activation_function"),
        default="silu",
    ),
    Family(
        "jina-embeddings-v3",
        {"jina_embeddings_v3": "roberta", "xlm-roberta": "roberta"},
        up=(rf"(?:encoder\.)?layers\.{LAYER}\.mlp\.fc1",),
        sign=r"mixer\.Wqkv|post_mlp_layernorm",
    ),
    Family(
        "up_proj and gate_proj",
        {
            "eurobert": "model",
            "esmc": "esmc",
            "ultrabert": "model ultrabert",
            "neomme": "model",
            "nomic_bert": "nomic_bert",
            "gte": "gte",
        },
        up=(rf"layers\.{LAYER}\.mlp\.up_proj",),
        gate=(rf"layers\.{LAYER}\.mlp\.gate_proj",),
        default="silu",
        needs_config=True,
    ),
    Family(
        "xlnet",
        {"xlnet": "transformer"},
        up=(rf"layer\.{LAYER}\.ff\.layer_1",),
        pooler=None,
        activation=("ff_activation",),
    ),
    Family(
        "xlm",
        {"xlm": "transformer", "flaubert": "transformer"},
        up=(rf"ffns\.{LAYER}\.lin1",),
        pooler=None,
        activation=("gelu_activation",),
    ),
    Family(
        "funnel",
        {"funnel": "funnel"},
        up=(
            rf"encoder\.(?P<stack>blocks)\.{INDEX}\.{LAYER}\.ffn\.linear_1",
            rf"(?P<stack>decoder)\.layers\.{LAYER}\.ffn\.linear_1",
        ),
        pooler=None,
        default="gelu_new",
    ),
    Family(
        "reformer",
        {"reformer": "reformer"},
        up=(rf"encoder\.layers\.{LAYER}\.feed_forward\.dense\.dense",),
        pooler=None,
        default="relu",
    ),
    Family(
        "cpmant",
        {"cpmant": "cpmant"},
        up=(rf"encoder\.layers\.{LAYER}\.ffn\.ffn\.w_in\.w_1",),
        gate=(rf"encoder\.layers\.{LAYER}\.ffn\.ffn\.w_in\.w_0",),
        pooler=None,
        activation=(),
    ),
    Family(
        "t5",
        {"t5": "transformer", "mt5": "transformer", "umt5": "transformer"},
        up=(
            rf"encoder\.block\.{LAYER}\.layer\.1\.DenseReluDense\.wi(?:_1)?",
            rf"(?P<stack>decoder)\.block\.{LAYER}\.layer\.2\.DenseReluDense\.wi(?:_1)?",
        ),
        gate=(
            rf"encoder\.block\.{LAYER}\.layer\.1\.DenseReluDense\.wi_0",
            rf"(?P<stack>decoder)\.block\.{LAYER}\.layer\.2\.DenseReluDense\.wi_0",
        ),
        pooler=None,
        activation=("feed_forward_proj",),
        default="relu",
    ),
    Family(
        "clip text",
        {"clip_text_model": "clip text_model", "siglip_text_model": "text_model"},
        up=(rf"encoder\.layers\.{LAYER}\.mlp\.fc1",),
        pooler=None,
        default="quick_gelu",
        needs_config=True,
    ),
    Family(
        "bart",
        {"bart": "model", "mbart": "model"},
        up=(rf"encoder\.layers\.{LAYER}\.fc1", rf"(?P<stack>decoder)\.layers\.{LAYER}\.fc1"),
        pooler=None,
        activation=("activation_function",),
        needs_config=True,
    ),
)

# What other tools put in front of every name; transformers does not take it off.
WRAPPING = {
    "module",
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "auto_model",
    "0",
}
# Training tools wrap single modules as well: these words say nothing wherever they stand.
INNER_WRAPPING = WRAPPING - {"auto_model", "0"}
OPTIMIZER = re.compile(
    r"(^|[./])(optimizer|exp_avg|exp_avg_sq|adam_m|adam_v|momentum_buffer|max_exp_avg_sq|global_step|lr_scheduler)($|[./_])"
)
OTHER_DEFAULTS = {"fnet": "gelu_new", "nystromformer": "gelu_new", "big_bird": "gelu_new", "neomme": "relu2"}
ALIASES = {"swiglu": "silu", "geglu": "gelu", "gated-gelu": "gelu_new", "gated-silu": "silu", "swish": "silu"}

LOOKALIKES: tuple[tuple[str, str], ...] = (
    (r"(^|\.)lora_(A|B|up|down|a|b)\b", "a LoRA adapter"),
    (r"(^|\.)(down_blocks|up_blocks|mid_block)\.", "a diffusion model's U-Net or autoencoder"),
    (
        r"model\.diffusion_model\.|(^|\.)(double_blocks|single_blocks|joint_blocks|transformer_blocks)\.\d",
        "a diffusion model",
    ),
    (r"(^|\.)h\.\d+\.(attn\.c_attn|mlp\.c_fc)", "a GPT-2-like decoder"),
    (r"(^|\.)(h|layers)\.\d+\.(mlp\.dense_h_to_4h|attention\.query_key_value)", "a GPT-NeoX- or BLOOM-like decoder"),
    (
        r"(^|\.)layers\.\d+\.(mlp\.(gate_proj|up_proj|gate_up_proj)|block_sparse_moe|feed_forward\.w1)",
        "a Llama-like decoder",
    ),
    (r"(^|\.)(patch_embed|patch_embeddings|vision_model|visual)\.|(^|\.)blocks\.\d+\.attn\.qkv", "a vision model"),
    (r"(^|\.)(feature_extractor\.conv_layers|encoder\.conv1)\b", "a speech model"),
    (r"(^|\.)layer[1-4]\.\d+\.conv\d", "a convolutional network"),
    (r"(^|\.)(encoder|decoder)\.layers\.\d+\.fc1", "an encoder-decoder or a decoder in fairseq's spelling"),
    (r"(^|\.)(weight_ih|weight_hh)_l\d", "a recurrent network"),
)
