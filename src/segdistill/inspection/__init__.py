"""A look at a data set before a run: what would spoil it, and what its images and labels look like."""
