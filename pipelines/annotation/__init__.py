"""`segray annotate`: the graph, its stages and its sink."""
