"""Burned-area segmentation: fire polygons and a catalogue of scenes become chips, models and maps.

What is said here concerns fires alone; scenes, chips and maps are those of :mod:`shoal_earth.rasters`, models those of
:mod:`shoal_earth.segmentation`.
"""
