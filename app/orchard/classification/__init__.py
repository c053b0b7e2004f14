"""Classifiers on the reduced features: training, predictions, and figures that can be trusted."""
