"""Digital wallets: the dispatcher of instructions, the HTTP adapter, and the reconciliation."""
