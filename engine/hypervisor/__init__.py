"""Speak with a hypervisor: one port, several drivers."""
