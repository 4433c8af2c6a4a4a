"""Show saving and restoring on a fleet of this machine, and prove each claim."""
