"""SAM "segment everything" on segment_anything's modules: encoder, decoder, mask generator."""
