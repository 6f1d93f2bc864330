"""The tables of a hostile audit of the statistics, made again with today's code: one module for each item."""
