"""Run engine work on hosts: submit jobs, carry them to a worker, keep what became of them.

The message is a doorbell, the job is a row: see docs and DESIGN.md section 2.
"""
