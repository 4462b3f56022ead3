"""Providers, models, prices, plan routing and budgets in the console: importing this registers their pages."""

from . import budgets, health, models, plans, prices, providers

__all__ = ("budgets", "health", "models", "plans", "prices", "providers")
