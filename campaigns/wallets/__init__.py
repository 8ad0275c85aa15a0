"""Digital wallets: what the ledger asks of the operator of a holder's wallet, and what that means.

Nothing here knows HTTP, tables or processes.
"""
