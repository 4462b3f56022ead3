"""Atomic multi-scope reservations in Redis: this app sees keys and numbers, never plans, models or accounts."""
