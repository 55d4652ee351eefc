"""Numbers of a run that callbacks ask for; measured only if one does."""
