"""A store over a Unix socket: several processes append to the store that one of them has open."""
