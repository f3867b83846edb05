"""Configuration: YAML and key=value words, checked against models, told in one line a problem."""
