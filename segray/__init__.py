"""From many images and few labels to a semantic segmentation model."""
