"""Deciding again: every recorded request in the state of its day, or under other terms.

Nothing here writes, and no decision of the service may ever look at anything here.
"""
