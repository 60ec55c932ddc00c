"""The command line: one thin file per command, each a face of one Python function."""
