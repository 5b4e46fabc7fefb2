"""Model vendors' streams: typed events, text, or straight into a response. Imports no vendor."""
