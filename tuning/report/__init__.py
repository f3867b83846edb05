"""What a search leaves: the terminal table, results.csv, results.json, configurations and the page."""
