"""Saving while training continues: copies in memory, files that are hashed as they are written, commits."""
