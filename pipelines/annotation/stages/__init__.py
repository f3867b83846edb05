"""The stages of the annotation graph: read, segment, classify, encode."""
