"""Read models: what the events add up to, kept in tables that can be thrown away and rebuilt.

Nothing here decides anything, and no decision reads what is here.
"""
