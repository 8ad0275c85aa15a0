"""The sandbox operator: a wallet operator of our own, as a real service with a store of its own.

It stands where a bank stands in service, so that everything around it can be tried: it is asked
over HTTP, keeps wallets and instructions in SQLite, and misbehaves on demand. It knows nothing of
the ledger, the campaigns or the dispatcher, and shares no code with them but the signatures.
"""
