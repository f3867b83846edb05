"""SAM with Triton kernels: the encoder without bias tensors, the decoder without image-sized tensors per prompt."""
