"""Which architectures to measure next, and which one to take."""
