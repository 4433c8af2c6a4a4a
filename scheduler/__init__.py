"""Decide what to do when: policies, calendar, pacing, retention; nothing of it yet."""
