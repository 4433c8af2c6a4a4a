"""Turn the bytes of a libvirt save image into values and back; no I/O here."""
