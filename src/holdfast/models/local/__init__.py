"""Models in this process: decoding with shared prefixes, transformers, vLLM."""
