"""Red packets (红包): a campaign's money in the hands of a holder, spent in several payments.

A packet's money never becomes the holder's own: it is paid to designated merchants or goes back.
There is nothing here that hands a packet on or pays it out, and there must never be.
"""
