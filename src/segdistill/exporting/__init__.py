"""From a run to a file to deploy."""
