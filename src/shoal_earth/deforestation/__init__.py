"""Deforestation: from PRODES polygons and a catalogue of scenes to chips of pairs, with a person who chooses in between."""
