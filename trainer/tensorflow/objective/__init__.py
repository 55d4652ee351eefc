"""The training objective: losses of Keras as sums and weights, which can be added up over any parts of an update."""
