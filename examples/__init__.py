"""Organisms to read and to run."""
