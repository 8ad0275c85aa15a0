"""Alike events judged together, column by column.

What is here can only confirm: that nothing is wrong with a run of events, as the audit would have
found of each. A finding is never made here; whatever is not confirmed is given to the audit.
"""
