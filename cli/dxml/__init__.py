"""Check and rewrite domain XML on the command line."""
