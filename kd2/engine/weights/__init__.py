"""Files of weights: what names and addresses stand for, fetching, reading without code, and meeting a model."""
