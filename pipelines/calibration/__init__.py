"""Calibrate a label set on a few masks: read them, choose, and describe what was chosen."""
