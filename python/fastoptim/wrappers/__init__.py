"""Methods that work on top of any optimizer."""
