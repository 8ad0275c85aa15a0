"""Everything that starts a process or faces a person: HTTP, command line, settings, wiring.

No business rule lives here; a rule that is found here belongs into `campaigns`.
"""
