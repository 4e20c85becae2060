"""Models on the Hugging Face Hub, read where they lie by byte ranges, or from the local cache.

Endpoint, token, cache, offline mode and user agent are huggingface_hub's, through its own functions.
"""
