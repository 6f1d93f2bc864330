"""The page and the terminal: sections put together, texts in shards, assets."""
