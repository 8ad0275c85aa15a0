"""The book: money, postings, the event store, group commit and verification.

Nothing in this package knows what a coupon, an HTTP request or a Redis key is.
"""
