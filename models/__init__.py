"""Pure PyTorch and numpy: SAM, GEM-CLIP, pooling, naming. Imports neither Ray nor `pipelines`."""
