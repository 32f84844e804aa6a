"""Recovery of many domains without losers: an adversary decides what of the text counts how much."""
