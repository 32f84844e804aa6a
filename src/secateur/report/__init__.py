"""What a run found, as one record, one file and one table."""
