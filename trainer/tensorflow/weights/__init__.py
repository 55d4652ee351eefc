"""State of a Keras model: its variables by name, files of Keras, an average of its weights, and a sandbox."""
