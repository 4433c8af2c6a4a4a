"""Lay images out on disk so that a reader finds them whole or not at all."""
