"""The command `trackside doctor`: what is installed, what a run would use, and whether the processes of a job talk."""
