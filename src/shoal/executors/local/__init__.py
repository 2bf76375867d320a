"""executors/local."""
