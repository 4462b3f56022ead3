"""Refreshing list prices: a price file becomes a proposal with its differences, which an operator reviews and applies."""
