"""Models that annotate, by name: one module per family, a registry of names with licence, size and source."""
