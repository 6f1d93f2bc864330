"""Figures as SVG, and converted for print."""
