"""What changed between two images of one place: models of pairs, published data sets, their training and testing."""
