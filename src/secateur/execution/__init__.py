"""Work that is done elsewhere: batches go to workers, and what happens to workers costs minutes, never results."""
