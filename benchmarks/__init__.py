"""Programs that measure what segray claims; README.md in this folder says which claims."""
