"""Accuracy predictors: learned from (architecture, measurement) pairs, honest about how well they rank."""
