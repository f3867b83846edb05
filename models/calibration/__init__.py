"""Calibrate the names of segments on a few hand-made masks, from stored embeddings and masks alone."""
