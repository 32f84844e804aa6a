"""Recovery: get back by a short training what the cut took."""
