"""Change values of domain XML in its text and leave every other character where it is."""
