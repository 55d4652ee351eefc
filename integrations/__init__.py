"""Trackers and other tools, one file each; a tool is imported only when its callback is attached."""
