"""Scheduled jobs as operators see them: what runs when, how its last run went, on and off, run now."""
