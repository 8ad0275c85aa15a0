"""Persons: the particulars that are kept of them, who looked at these, and erasure.

Whatever can be read of a person comes in here sealed already. There is no key in this package.
"""
