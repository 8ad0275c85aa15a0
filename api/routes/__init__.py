"""Routes: the addresses of the service, by who uses them."""
