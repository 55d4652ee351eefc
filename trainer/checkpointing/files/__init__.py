"""Files of a checkpoint that someone else may have written: opened with care, JSON checked against schemas."""
