"""Random numbers that a model draws by ``tf.random.*``."""
