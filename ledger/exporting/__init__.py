"""Exports: a book as files that prove themselves, and reading them without believing them.

No rule about what events mean lives here, and no database is needed to read.
"""
