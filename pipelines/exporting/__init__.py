"""A label set as the files of other tools: one module per format, one registry, one loop over the parts."""
