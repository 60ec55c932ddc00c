"""Files that networks are exported to, one class per format."""
