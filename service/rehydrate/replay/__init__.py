"""Replay: a stored response is published again, by any process, and once."""
