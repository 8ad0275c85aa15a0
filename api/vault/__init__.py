"""The vault: the keys of persons, and how they are destroyed.

Rows in the database, wrapped by epoch keys outside it; a list of the erased beside these; and the
eraser, which does what was asked for. Only this package ever holds a person's key.
"""
