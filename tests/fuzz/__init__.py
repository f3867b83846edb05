"""Hostile input by the thousand: valid files, changed by hypothesis, are read in a watched process."""
