"""Live bandits without HTTP: select, learn, train, swap, administrate."""
