"""Parts of the Keras adapter: what ``Model.fit`` gives its callbacks, and what is known about Keras' own."""
