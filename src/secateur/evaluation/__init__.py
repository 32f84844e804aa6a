"""How good a candidate or a model is: divergence from the dense model and perplexity, with their uncertainty."""
