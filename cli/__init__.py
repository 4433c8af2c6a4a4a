"""Parse the command line, call, print, exit; one file for each command group."""
