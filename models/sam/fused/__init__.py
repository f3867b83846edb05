"""SAM by Triton kernels: no bias tensors in the encoder, no image-sized tensors per prompt in the decoder."""
