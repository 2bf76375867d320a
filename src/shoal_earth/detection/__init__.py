"""Overhead object detection: datasets as published, chips, evaluation, large images."""
