"""The transparency log of a book, in the published formats that other people's tools read.

`notes`, `checkpoints`, `tiles`, `proofs` and `submissions` are formats: bytes in,
values out, and back. They do no I/O, accept exactly what their specification says, and raise
`Malformed` on everything else.
"""
