"""Helpers that know nothing of training: files, imports, signatures, conversion of values, texts."""
