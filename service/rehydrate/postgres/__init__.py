"""The store's room: Postgres, and the only SQL."""
