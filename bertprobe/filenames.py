"""What the small files of a model's folder are called."""

CONFIGS = ("config.json", "bert_config.json")  # a model's settings: everybody's name for them, and Google's
MODULES = "modules.json"  # sentence-transformers' list of a model's parts
POOLING = "1_Pooling/config.json"  # and its settings of the pooling
