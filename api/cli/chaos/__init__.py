"""The command `trackside chaos`: whether a job that is killed and resumed is bit by bit the job that was not."""
