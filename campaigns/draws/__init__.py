"""Public draws (公开摇号): winners among the registered that anybody can compute again.

Everything that decides a draw is published before the public beacon speaks: the frozen list, the
commitment to the seed, the round of the beacon, the method. Nothing here makes random numbers, and
a draw whose beacon is silent or speaks twice waits; it never helps itself.
"""
