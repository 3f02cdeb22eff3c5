"""Chaos: workers are killed, stopped and cut off, and every conversation still comes out right."""
