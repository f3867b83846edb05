"""The weak and strong views of a batch of images."""
