"""From scenes and polygons to chips: reading, labels, splits, statistics, shards."""
