"""What steps take before they are carried out: tokens of conversations, work of networks, seconds of a processor."""
