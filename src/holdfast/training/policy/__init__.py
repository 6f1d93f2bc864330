"""What is trained: adapters, whole weights, heads, merges."""
