"""L-BFGS and what it consists of: vectors over all parameters, the pairs, the line search."""
