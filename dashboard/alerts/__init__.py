"""Telling operators what needs them: conditions that are looked at, alerts that are open, messages that are sent."""
