"""The TensorFlow trainer.

TensorFlow's log leaves out information, unless the user has set ``TF_CPP_MIN_LOG_LEVEL``; warnings and errors stay.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # read when TensorFlow is imported, by the modules of this package
