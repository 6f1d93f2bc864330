"""Arrays in, plain results out: resampling, contrasts, ratios, frontier lines, agreement. NumPy and SciPy only."""
