"""A stand-alone HTTP server that answers like the AI providers, with settable speed and failures. No Django."""

from routing.simulator.server import run, start_simulator

__all__ = ["run", "start_simulator"]
