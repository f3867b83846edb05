"""The mathematics of semi-supervised training: labels and losses (Eq. 7-10), methods, the student."""
