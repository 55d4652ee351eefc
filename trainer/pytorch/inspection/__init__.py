"""What the PyTorch trainer finds out about a loss, its labels and its batches; see `Trainer.explain_batch`."""
