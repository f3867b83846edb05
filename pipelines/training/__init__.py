"""Training: data, augmentation, the step, the loop, checkpoints."""
