"""Locks of output folders and addresses: one run at a time writes into one."""
