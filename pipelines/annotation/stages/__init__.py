"""The stages of annotation: read, segment, classify, encode."""
