"""Simulate a hypervisor host in a directory: domains are files, a running guest is a line of state.

No daemon, no guest: what a call has to do, the calling thread does. Every process that opens
the same directory sees the same domains. docs/SIMULATION.md lists URIs and faults.
"""
