"""Group packets: a sum that one person sends to many, in equal or random shares.

A purse is what a person may send of one campaign, a group is what was sent at once, and a share
is what one taker gets: a packet, opened as it is taken. Nothing that was taken can be sent on.
"""
