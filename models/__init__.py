"""Pure PyTorch and numpy: SAM, GEM-CLIP, pooling, classification. Imports neither Ray nor `pipelines`."""

from segray.models.deferred import defer

defer("segment_anything")
