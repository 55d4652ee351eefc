"""Training arguments: fields, conversion, validation and serialization, without a framework."""
