"""From a pruned model in memory to a folder that other people's software loads."""
