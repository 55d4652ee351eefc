"""The ground floor: errors, events, state, the base class of callbacks, the dispatcher, and the built-in callbacks."""
