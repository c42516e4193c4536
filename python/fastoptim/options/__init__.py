"""Options: the values that they accept, the fields that declare them, and the schema of the state."""
