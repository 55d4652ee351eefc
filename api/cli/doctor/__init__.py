"""``trackside doctor``: what is installed, what a run would use, and how the processes of a job see each other."""
