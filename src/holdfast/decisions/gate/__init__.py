"""Whether a child kept what its parent had: non-inferiority with declared margins."""
