"""One file for each change of the catalog's tables."""
