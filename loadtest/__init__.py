"""Load, benchmarks and the checks that follow them.

Everything here speaks HTTP, like a stranger would. It starts servers by their command lines and
never imports the application's packages, so that no measurement and no check can lean on the code
that it judges.
"""
