"""Locust scenarios: what tourists and merchants do, one behaviour per module."""
