"""Start-up messages of TensorFlow that tell of nothing to be done, left out of the command's output."""
