"""What stands inside the annotation graph: its stages, its sink, and what watches over them."""
