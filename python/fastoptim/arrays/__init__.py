"""Arrays: structures of them, the checks before a step, and the families that they come from."""
