"""The tiny agent: a small Llama of our own with its chat format and decoding."""
