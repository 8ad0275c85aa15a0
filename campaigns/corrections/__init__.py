"""Corrections: a redemption or payment that arrived late counts for the instant at which it was."""
