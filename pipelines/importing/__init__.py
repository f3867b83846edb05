"""Masks that people made with other tools, back into a label set as corrections."""
