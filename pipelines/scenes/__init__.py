"""The picture book: procedural scenes with exact masks."""
