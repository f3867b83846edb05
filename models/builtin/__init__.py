"""The built-in picture-book models: their architecture and their weights."""
