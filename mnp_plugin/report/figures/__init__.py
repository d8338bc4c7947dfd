"""Figures for papers, by matplotlib: one style, colour-blind safe, the same bytes for the same records."""
