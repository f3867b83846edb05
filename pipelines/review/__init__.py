"""The page of `segray serve`: look at a label set, correct it, and let corrections spread."""
