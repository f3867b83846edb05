"""The segmentation networks, one file a family; `models.segmenters.registry` builds them by name."""
