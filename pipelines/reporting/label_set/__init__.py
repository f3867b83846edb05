"""The report of a label set."""
