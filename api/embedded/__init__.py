"""PostgreSQL and Valkey out of wheels: whole servers under one directory, started and ended by us.

This is the default with which Tidebook runs on a fresh machine; real deployments name servers of
their own and never come here. The servers are our own children and end with us, however we end.
They listen on unix sockets only. No account is created and no directory outside `home` is changed:
as root, both servers run under an account that is there already.

What must never happen here: a setting under which an acknowledged commit could be lost.
"""

from api.embedded.postgres import EmbeddedPostgres, WrongVersion
from api.embedded.server import EmbeddedError, HomeInUse
from api.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedError", "EmbeddedPostgres", "EmbeddedValkey", "HomeInUse", "WrongVersion"]
