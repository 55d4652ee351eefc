"""Names of the transformers Trainer, for scripts that were written for it."""
