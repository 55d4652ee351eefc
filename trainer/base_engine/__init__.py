"""The part of both engines that needs no framework."""
