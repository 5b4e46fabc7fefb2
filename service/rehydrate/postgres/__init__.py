"""The Postgres adapter of the store ports. All SQL of the service is in this package."""
