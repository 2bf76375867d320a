"""Semantic segmentation of chips: models, losses, metrics, training and testing."""
