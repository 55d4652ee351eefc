"""Training and evaluation data in TensorFlow."""
