"""The dense model: which families are known, what shape a model has, how it is loaded and walked layer by layer."""
