"""Read, compare and edit domain XML: text in, values out, no I/O."""
