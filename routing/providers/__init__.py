"""Upstream AI providers: one adapter per wire protocol, plain Python without Django or models."""
