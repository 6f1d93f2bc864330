"""Real language models: which directories may be opened, and how their chat templates are written and read."""
