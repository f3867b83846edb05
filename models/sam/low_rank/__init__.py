"""SAM's mask decoder without a tensor [prompts, tokens, channels], for kernels and for plain torch."""
