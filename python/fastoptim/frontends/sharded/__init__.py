"""An optimizer whose state is divided among processes."""
