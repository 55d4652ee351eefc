"""The built-in callbacks that act on the weights of the model."""
