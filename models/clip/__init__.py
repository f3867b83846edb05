"""CLIP, its dense features (GEM), and zero-shot classification of segments."""
