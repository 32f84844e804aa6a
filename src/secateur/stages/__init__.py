"""The stages of a run, one file each; the main flow calls them in order and nothing else does, but the comparison."""
