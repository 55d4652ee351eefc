"""The built-in callbacks, one file each, named after its class."""
