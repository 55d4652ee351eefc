"""Export of a model in the formats of Keras."""
