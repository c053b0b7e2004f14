"""Classifiers on the reduced features: training, predictions, and honest measurements."""
