"""Base classes and helpers that several integrations share."""
