"""Tell whether the disks of a guest are those that its memory knows, and whether QEMU can open them."""
