"""Replay: publish a stored response again, exactly once, by any process."""
