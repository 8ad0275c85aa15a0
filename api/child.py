"""The launcher: what happens in a new process before it becomes the program it is meant to be.

It is run as a file (`python -I -S child.py PLAN ARGV…`), on the standard library only. It gives up
root for an ordinary account, ties the life of the process to that of its parent, and then *becomes*
ARGV, so that the parent's child is the program itself. Nothing of ours is left in that process.

Two orders matter. The death signal is set after the account was changed, because a change of
account clears it; and the parent is looked at after the death signal was set, because a parent
that died before that would never be noticed.
"""

import ctypes
import json
import os
import sys
from typing import Any, Final, NoReturn

# From linux/prctl.h, linux/securebits.h and linux/capability.h.
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_KEEPCAPS: Final = 8
_PR_SET_SECUREBITS: Final = 28
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAP_DAC_OVERRIDE: Final = 1
_CAP_DAC_READ_SEARCH: Final = 2
_CAP_SETPCAP: Final = 8
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2

EXIT_REFUSED: Final = 78
"""The exit status of a launcher that could not do what its plan says (EX_CONFIG)."""


class Refused(Exception):
    """The process cannot be set up as its plan says; the message is for a person."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def launch(plan: dict[str, Any], argv: list[str]) -> NoReturn:
    """Carry out `plan`, then become `argv`. Raises `Refused`, and OSError when argv cannot run.

    Plan: `parent` (process id), `death_signal` (sent when the parent's spawning thread ends),
    `account` ([uid, gid] or null), `reach` (paths which the account must be able to enter).
    """
    if plan["account"] is not None:
        _become(*plan["account"], reach=plan["reach"])
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, plan["death_signal"])
    if os.getppid() != plan["parent"]:
        message = "the parent ended while this process was starting"
        raise Refused(message)
    os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted


def _become(uid: int, gid: int, *, reach: list[str]) -> None:
    """Give up root for good, keeping at most the right to walk through others' directories."""
    if sys.platform == "linux":
        _prctl(_PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    except OSError as error:
        message = f"account {uid}:{gid} cannot be used here: {error.strerror}"
        raise Refused(message) from error
    # `access` asks for the account alone: it never counts capabilities.
    closed = [path for path in reach if not os.access(path, os.X_OK)]
    if not closed:
        _keep_capabilities(())
        return
    if not any(_kept(capability) for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE)):
        message = (
            f"account {uid}:{gid} cannot enter {closed[0]}, and this machine withholds the "
            "capability to walk through closed directories. Choose a TIDEBOOK_HOME and a place for "
            "the program that others may enter (chmod o+x on their parents), or do not run as root."
        )
        raise Refused(message)


def _kept(capability: int) -> bool:
    """Whether exactly `capability` now survives into the program (it then has no other).

    PostgreSQL asks with access(2) whether it may run its own parts, and that call looks at
    capabilities only under NO_SETUID_FIXUP.
    """
    try:
        _keep_capabilities((capability, _CAP_SETPCAP))
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
        _keep_capabilities((capability,))
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)
    except OSError:
        return False
    return True


def _keep_capabilities(capabilities: tuple[int, ...]) -> None:
    if sys.platform != "linux":
        return
    bits = sum(1 << capability for capability in capabilities)
    header = _Header(_CAPABILITY_VERSION_3, 0)
    sets = (_Sets * 2)(_Sets(bits, bits, bits), _Sets(0, 0, 0))
    _check(_libc().capset(ctypes.byref(header), ctypes.byref(sets)))


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc().prctl(ctypes.c_int(option), *padded))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> NoReturn:
    """Launch what the command line says; on failure, say why on standard error."""
    plan, *argv = sys.argv[1:]
    try:
        launch(json.loads(plan), argv)
    except Refused as refused:
        print(f"cannot start {argv[0]}: {refused}", file=sys.stderr)  # noqa: T201 - for a person
    except OSError as error:
        print(f"cannot start {argv[0]}: {error}", file=sys.stderr)  # noqa: T201 - for a person
    sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
