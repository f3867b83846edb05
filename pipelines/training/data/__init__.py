"""The data sets that training reads, and which image comes when."""
