"""What stands inside training: data, augmentation, the step, the loop, checkpoints."""
