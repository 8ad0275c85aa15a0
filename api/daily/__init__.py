"""Daily proofs of no over-issue: for each campaign and day, what was issued against what may be.

Figures are the sums of the events up to the day's end in the campaign's zone, as the campaign
figures fold them. Who makes a proof decides nothing: its bytes follow from the events.
"""
