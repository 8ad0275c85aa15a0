"""The rules: campaigns, coupons, who may have one, what it is worth, where its money goes.

Decisions are pure functions of a view of the book. Nothing here knows HTTP or a read model.
"""
