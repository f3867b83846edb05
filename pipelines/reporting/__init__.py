"""What pages and tables show of label sets and runs."""
