"""The segmentation networks, one file a family; `models.segmenter` builds them by name."""
