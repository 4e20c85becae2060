"""`LAYOUTS`: how encoders spell their modules, and what else a tensor's name gives away.

Read off tiny models of 70 encoders of transformers 5.23, as their files spell them and as older files on the Hub do. A
row is recognised by tensor names; only where they are shared with other models has the config a say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

# Digits as PyTorch writes them: of layer.03, or of other scripts' digits, it would know nothing.
LAYER = r"(?P<layer>0|[1-9][0-9]{0,8})"
INDEX = r"(?P<index>0|[1-9][0-9]{0,8})"
DEEPEST = 32  # modules around an encoder


@dataclass(frozen=True, eq=False)
class Layout:
    """A row of `LAYOUTS`: how models of one or more families spell their modules.

    `up` are patterns of the up-projection's path behind the prefix, with groups `layer`, and `stack` and `index` where
    a layer number alone is not unique; `gate` likewise. `down` is what an up-projection's path ends in, and what that
    of its down-projection ends in. `fused` says which half of one matrix is activated. `sign` must be found in the
    names too where `up` alone could be somebody else's. A layout that `needs_config` spells its layers as others do,
    and is believed only when the config names one of its families; one that is a single family's own says which in
    `family`, as files of the code's first authors give another model_type.

    What the config's sizes mean: the layers of a `narrow` one are narrower than its hidden states; one with
    `own_widths` has widths that follow other settings than hidden_size and intermediate_size; a `shared` one stores few
    layers and runs them as often as the config says; and one `counted_apart` has a count of layers for each stack.
    """

    name: str
    up: tuple[str, ...]
    gate: tuple[str, ...] = ()
    down: tuple[str, str] | None = None
    fused: str | None = None
    sign: str | None = None
    pooler: str | None = r"pooler\.dense"
    activation: tuple[str, ...] = ("hidden_act",)
    default: str | None = "gelu"
    needs_config: bool = False
    family: str = ""
    canonical: bool = False
    position: str = "between attention and output"
    narrow: bool = False
    own_widths: bool = False
    shared: bool = False
    counted_apart: bool = False

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


_BERT_DOWN = (r"inter(?:mediate)?(_query)?\.dense$", r"output\1.dense")

MOBILEBERT = Layout(
    "mobilebert",
    up=(rf"encoder\.layer\.{LAYER}\.(?:(?P<stack>ffn)\.{INDEX}\.)?intermediate\.dense",),
    sign=r"encoder\.layer\.\d+\.ffn\.\d+\.intermediate\.dense",
    default="relu",
    narrow=True,
    down=_BERT_DOWN,
    own_widths=True,
)
LILT = Layout(
    "lilt",
    up=(rf"encoder\.layer\.{LAYER}\.(?:(?P<stack>layout)_)?intermediate\.dense",),
    sign=r"layout_intermediate\.dense",
    down=_BERT_DOWN,
)
CANINE = Layout(
    "canine",
    up=(rf"(?:(?P<stack>initial_char_encoder|final_char_encoder)|encoder)\.layer\.{LAYER}\.intermediate\.dense",),
    sign=r"initial_char_encoder\.layer\.",
    down=_BERT_DOWN,
)
LXMERT = Layout(
    "lxmert",
    up=(
        rf"encoder\.(?:layer|(?P<stack>r_layers))\.{LAYER}\.intermediate\.dense",
        rf"encoder\.(?P<stack>x_layers)\.{LAYER}\.(?P<side>lang|visn)_inter\.dense",
    ),
    sign=r"encoder\.x_layers\.",
    down=_BERT_DOWN,
)
Q_FORMER = Layout(
    "q-former",
    up=(rf"encoder\.layer\.{LAYER}\.intermediate(?:_(?P<stack>query))?\.dense",),
    sign=r"intermediate_query\.dense",
    down=_BERT_DOWN,
)
SQUEEZEBERT = Layout(
    "squeezebert",
    up=(rf"encoder\.layers\.{LAYER}\.intermediate\.conv1d",),
    down=(r"intermediate\.conv1d$", "output.conv1d"),
    own_widths=True,
)
BERT_IN_LAYERS = Layout(
    "bert, encoder.layers",
    up=(rf"encoder\.layers\.{LAYER}\.intermediate\.dense",),
    down=_BERT_DOWN,
)
BERT = Layout(
    "bert",
    up=(rf"encoder\.layer\.{LAYER}\.intermediate\.dense",),
    pooler=r"pooler(?:\.dense)?",
    canonical=True,
    down=_BERT_DOWN,
)
DISTILBERT = Layout(
    "distilbert",
    up=(rf"transformer\.layer\.{LAYER}\.ffn\.lin1",),
    pooler=None,
    activation=("activation",),
    down=(r"lin1$", "lin2"),
)
ALBERT = Layout(
    "albert",
    up=(rf"encoder\.albert_layer_groups\.(?:0|(?P<index>[1-9][0-9]{{0,8}}))\.albert_layers\.{LAYER}\.ffn",),
    pooler=r"pooler",
    default="gelu_new",
    down=(r"ffn$", "ffn_output"),
    shared=True,
)
MODERNBERT = Layout(
    "modernbert",
    up=(rf"layers\.{LAYER}\.mlp\.Wi",),
    fused="first half activated",
    pooler=None,
    activation=("hidden_activation",),
    down=(r"Wi$", "Wo"),
)
GTE = Layout(
    "gte",
    up=(rf"encoder\.layer\.{LAYER}\.mlp\.up_gate_proj",),
    fused="second half activated",
    down=(r"up_gate_proj$", "down_proj"),
    family="gte",
)
NOMIC_BERT = Layout(
    "nomic-bert",
    up=(rf"encoder\.layers\.{LAYER}\.mlp\.fc11",),
    gate=(rf"encoder\.layers\.{LAYER}\.mlp\.fc12",),
    activation=("hidden_act", "activation_function"),
    default="silu",
    down=(r"fc11$", "fc2"),
)
JINA = Layout(
    "jina-embeddings-v3",
    up=(rf"(?:encoder\.)?layers\.{LAYER}\.mlp\.fc1",),
    sign=r"mixer\.Wqkv|post_mlp_layernorm",
    down=(r"fc1$", "fc2"),
    family="jina_embeddings_v3",
)
UP_AND_GATE = Layout(
    "up_proj and gate_proj",
    up=(rf"layers\.{LAYER}\.mlp\.up_proj",),
    gate=(rf"layers\.{LAYER}\.mlp\.gate_proj",),
    default="silu",
    needs_config=True,
    down=(r"up_proj$", "down_proj"),
)
XLNET = Layout(
    "xlnet",
    up=(rf"layer\.{LAYER}\.ff\.layer_1",),
    pooler=None,
    activation=("ff_activation",),
    down=(r"layer_1$", "layer_2"),
)
XLM = Layout(
    "xlm",
    up=(rf"ffns\.{LAYER}\.lin1",),
    pooler=None,
    activation=("gelu_activation",),
    down=(r"lin1$", "lin2"),
    own_widths=True,
)
FUNNEL = Layout(
    "funnel",
    up=(
        rf"encoder\.(?P<stack>blocks)\.{INDEX}\.{LAYER}\.ffn\.linear_1",
        rf"(?P<stack>decoder)\.layers\.{LAYER}\.ffn\.linear_1",
    ),
    pooler=None,
    default="gelu_new",
    down=(r"linear_1$", "linear_2"),
)
REFORMER = Layout(
    "reformer",
    up=(rf"encoder\.layers\.{LAYER}\.feed_forward\.dense\.dense",),
    pooler=None,
    default="relu",
    down=(r"dense\.dense$", "output.dense"),
)
CPMANT = Layout(
    "cpmant",
    up=(rf"encoder\.layers\.{LAYER}\.ffn\.ffn\.w_in\.w_1",),
    gate=(rf"encoder\.layers\.{LAYER}\.ffn\.ffn\.w_in\.w_0",),
    pooler=None,
    activation=(),
    down=(r"w_in\.w_1$", "w_out"),
)
T5 = Layout(
    "t5",
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
    down=(r"wi(?:_1)?$", "wo"),
)
CLIP_TEXT = Layout(
    "clip text",
    up=(rf"encoder\.layers\.{LAYER}\.mlp\.fc1",),
    pooler=None,
    default="quick_gelu",
    needs_config=True,
    down=(r"fc1$", "fc2"),
)
BART = Layout(
    "bart",
    up=(rf"encoder\.layers\.{LAYER}\.fc1", rf"(?P<stack>decoder)\.layers\.{LAYER}\.fc1"),
    pooler=None,
    activation=("activation_function",),
    needs_config=True,
    down=(r"fc1$", "fc2"),
    counted_apart=True,
)

# In this order they are asked whether a checkpoint is theirs.
LAYOUTS: tuple[Layout, ...] = (
    MOBILEBERT,
    LILT,
    CANINE,
    LXMERT,
    Q_FORMER,
    SQUEEZEBERT,
    BERT_IN_LAYERS,
    BERT,
    DISTILBERT,
    ALBERT,
    MODERNBERT,
    GTE,
    NOMIC_BERT,
    JINA,
    UP_AND_GATE,
    XLNET,
    XLM,
    FUNNEL,
    REFORMER,
    CPMANT,
    T5,
    CLIP_TEXT,
    BART,
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
