"""From a run to a file that runs without segdistill: exported, quantised, measured."""
