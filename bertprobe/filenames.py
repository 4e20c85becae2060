"""What the small files of a model's folder are called."""

CONFIGS = ("config.json", "bert_config.json")  # a model's settings: everybody's name for them, and Google's
MODULES = "modules.json"  # sentence-transformers' list of a model's parts
POOLING = "1_Pooling/config.json"  # and its settings of the pooling

ADAPTER = "adapter_model"  # peft's weights, but for what a format adds, and their settings
ADAPTER_CONFIG = "adapter_config.json"

TOKENIZER = "tokenizer.json"  # a whole tokenizer, which goes before every other file of one
VOCABULARY = "vocab.txt"
# What tokenizers are made of, these two and those of transformers' classes.
VOCABULARIES = (
    TOKENIZER,
    VOCABULARY,
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
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")  # and what is said of it

# What sentence-transformers reads beside a model to make its vector; the folders of its modules are named so, too.
SENTENCE_SETTINGS = (MODULES, "sentence_bert_config.json", "config_sentence_transformers.json")
MODULE_FOLDER = r"[1-9][0-9]{0,2}_[A-Za-z]+"  # such as 1_Pooling
