"""Reports and evaluations of label sets and training runs."""
