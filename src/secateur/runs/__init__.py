"""What a run leaves on disk while it works, and what it says."""
