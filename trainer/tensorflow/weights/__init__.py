"""The weights of a Keras model beside those that are trained."""
